"""Whether this host keeps up with devices that compute at once: one rule for the doctor, dry runs and the verdict.

A device is too slow here when its operations take more than `EXCESS_SHARE` longer, in sum, than its model says. The
verdict finds that in a run. The doctor and dry runs predict it from how long operations take on this host when as
many devices compute at once. This module only computes; `testbed.doctor.bench_concurrency` measures.
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
FIXED_SHARE = 0.5  # this share of a measured operation's time does not depend on its size
SEARCH_S = 1e-6, 10.0  # the range in which the shortest time of an operation is searched


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


def fastest_Bps(speed: HostSpeed, measured: Together) -> float:
    """The highest streaming rate at which as many devices at once still finish the measured operation in time."""
    low, high = SEARCH_S
    while high / low > 1.001:
        due_s = (low * high) ** 0.5
        late = excess_s(speed, Operation(measured.count, measured.read_bytes, due_s)) > EXCESS_SHARE * due_s
        low, high = (due_s, high) if late else (low, due_s)
    return measured.read_bytes / high


def told_rates(speed: HostSpeed) -> str:
    """How fast each device may stream float32 numbers, by how many compute at once: `1: 4.1 GB/s, 2: 3.3 GB/s`.

    Then the share of that for each format that was measured, since packed numbers take longer per byte.
    """
    rates = {each.count: float(f"{fastest_Bps(speed, each):.2g}") for each in speed.together}
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


def most_at_once(operations: Mapping[str, Sequence[Operation]]) -> int:
    """The largest number of devices that compute at once."""
    return max((operation.count for every in operations.values() for operation in every), default=0)
