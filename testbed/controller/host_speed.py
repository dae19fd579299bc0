"""Whether this host keeps up with devices that compute at once: one rule for the doctor, dry runs and the verdict.

A device is too slow here when its operations take more than `EXCESS_SHARE` longer, in sum, than its model says. It is
held up when it waits for a core of the host while no operation can make up for that, as between its messages. The
verdict finds both in a run. The doctor and dry runs predict them from how long operations take on this host, and how
long devices wait, when as many devices compute at once. This module only computes; `testbed.doctor.bench_concurrency`
measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from testbed.device_model import PACED_FROM_S
from testbed.formats import FORMATS
from testbed.units import format_bandwidth

EXCESS_SHARE = 0.02  # how much longer a device's operations may take than its model says, as a share
# How much of a token's time a device may wait by what was measured over loopback. In runs on Mininet devices waited 1.8
# to 2.7 times as long, and 1.4 times that in the interval with the prefill: the verdict's 10 % are 2.6 to 4 % here.
HELD_UP_SHARE = 0.025
FIXED_SHARE = 0.5  # this share of a measured operation's time does not depend on its size
SEARCH_BPS = 1e6, 1e12  # the range in which the fastest device is searched
# What `fastest_Bps` splits evenly: GPT-2 in float32, bytes of a layer's attention, of its FFN, and of the LM head.
LAYERS, HALVES_BYTES, LM_HEAD_BYTES = 12, (4 * 4 * 768**2, 8 * 4 * 768**2), 4 * 50257 * 768


Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class Together:
    """How long operations of `count` devices computing at once take after their last input, in wall seconds."""

    count: Annotated[int, msgspec.Meta(ge=1)]
    read_bytes: Positive  # what each operation reads, in float32
    finished_s: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)]  # sorted; all are equally likely
    waited_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How long a device waited for a core per operation where pacing could not make up for it, wall seconds."""


@dataclass(frozen=True)
class HostSpeed:
    """What was measured of this host; `together` is sorted by count."""

    cores: Annotated[int, msgspec.Meta(ge=1)]
    streaming_Bps: Positive  # of one core while all cores read memory
    together: Annotated[tuple[Together, ...], msgspec.Meta(min_length=1)]
    packed_Bps: dict[str, Positive] = field(default_factory=dict)
    """Bytes per second of one core in products with matrices of each format, all cores computing."""

    def as_float32(self, read_bytes: Mapping[str, float]) -> float:
        """The bytes of float32 numbers that take this host as long as these bytes, which are given by format.

        A format that was not measured counts by its numbers, each of which takes as long as a float32 number.
        """
        known = self.packed_Bps
        return sum(
            size * (known["float32"] / known[name] if {name, "float32"} <= known.keys() else widened(name))
            for name, size in read_bytes.items()
        )


def widened(name: str) -> float:
    """How many bytes of float32 numbers a byte in this format holds."""
    return 4 * FORMATS[name].block / FORMATS[name].block_bytes


@dataclass(frozen=True)
class Operation:
    """One operation of a device, and how many devices compute at the same time, itself included."""

    count: int
    read_bytes: float  # as float32, see `HostSpeed.as_float32`
    due_s: float  # wall seconds
    adds_up: bool = False  # what others sent, right before an operation of the device's own


def excess_s(speed: HostSpeed, operation: Operation) -> float:
    """How late the operation ends here, on average.

    The measurement with at least as many devices applies; with more devices than were measured, times grow with their
    number. A larger operation takes longer by the time its further bytes need while devices share the cores. In a
    smaller one half of the time is the worker's own work, which stays.
    """
    measured = next((each for each in speed.together if each.count >= operation.count), speed.together[-1])
    smaller = min(1.0, operation.read_bytes / measured.read_bytes)
    scale = max(1.0, operation.count / measured.count) * (FIXED_SHARE + (1 - FIXED_SHARE) * smaller)
    turns = max(1.0, operation.count / speed.cores)
    more_s = max(0.0, operation.read_bytes - measured.read_bytes) / speed.streaming_Bps * turns
    late = (max(0.0, each * scale + more_s - operation.due_s) for each in measured.finished_s)
    return sum(late) / len(measured.finished_s)


def held_up_s(speed: HostSpeed, count: int) -> float:
    """How long a device waits for a core with each operation while `count` devices compute at once.

    Beyond what was measured the waits grow with the square of the number: each device then has messages from all.
    """
    measured = next((each for each in speed.together if each.count >= count), speed.together[-1])
    return measured.waited_s * max(1.0, count / measured.count) ** 2


def fastest_Bps(speed: HostSpeed, count: int) -> float:
    """The highest streaming rate of `count` devices that compute at once and that this host keeps up with.

    Each has an equal part of every layer of GPT-2, and the LM head runs on one of them alone.
    """
    low, high = SEARCH_BPS
    while high / low > 1.001:
        rate = (low * high) ** 0.5
        operations = [Operation(count, size / count, size / count / rate) for size in HALVES_BYTES * LAYERS]
        token_s = sum(each.due_s for each in operations) + LM_HEAD_BYTES / rate
        late_s = sum(excess_s(speed, each) for each in operations)
        too_fast = late_s > EXCESS_SHARE * sum(each.due_s for each in operations)
        too_fast = too_fast or bool(held_up_here(speed, {"each": operations}, token_s))
        low, high = (low, rate) if too_fast else (rate, high)
    return low


def told_rates(speed: HostSpeed) -> str:
    """How fast each device may stream float32 numbers, by how many compute at once: `1: 4.1 GB/s, 2: 3.3 GB/s`.

    Then the share of that for each format that was measured, since packed numbers take longer per byte.
    """
    rates = {each.count: float(f"{fastest_Bps(speed, each.count):.2g}") for each in speed.together}
    told = ", ".join(f"{count}: {format_bandwidth(rate)}" for count, rate in rates.items())
    shares = [f"{name} {1 / speed.as_float32({name: 1.0}):.0%}" for name in speed.packed_Bps if name != "float32"]
    return told + (f"; of these rates, bytes in {', '.join(shares)}" if shares else "")


def too_slow_here(speed: HostSpeed, operations: Mapping[str, Iterable[Operation]]) -> dict[str, float]:
    """Device -> how much longer its operations take here, as a share, for devices that the verdict would not pass."""
    found = {}
    for device, every in operations.items():
        judged = [operation for operation in every if operation.due_s >= PACED_FROM_S]
        due_s = sum(operation.due_s for operation in judged)
        share = sum(excess_s(speed, operation) for operation in judged) / due_s if judged else 0.0
        if share > EXCESS_SHARE:
            found[device] = share
    return found


def held_up_here(speed: HostSpeed, operations: Mapping[str, Iterable[Operation]], token_s: float) -> dict[str, float]:
    """Device -> the share of a token's time for which it waits, for devices that the verdict would not pass.

    `token_s` is how long the token takes, in wall seconds.
    """
    found = {}
    for device, every in operations.items():
        share = sum(held_up_s(speed, each.count) for each in every if not each.adds_up) / token_s
        if share > HELD_UP_SHARE:
            found[device] = share
    return found


def most_at_once(operations: Mapping[str, Sequence[Operation]]) -> int:
    """The largest number of devices that compute at once."""
    return max((operation.count for every in operations.values() for operation in every), default=0)
