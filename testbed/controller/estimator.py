"""What a deployed controller can know of its devices and links: samples go in, an observation comes out.

No sample needs a common clock. An operation's duration is one device's own interval. A message has a time by its
sender's clock and one by its receiver's, and only differences are used in which the clocks' offset cancels: between
messages of one path, or over a path and the way back (`path_estimates`). This module does no I/O and reads no clock.

An estimate stays as it is while samples contradict it by less than a tolerance, so that noise alone moves no block.
Else it is the last interval's sample: what was before is forgotten, and nothing is reported that was neither told nor
seen.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from testbed.controller.link_samples import Message, Train, Transit
from testbed.controller.path_estimates import PathEstimates
from testbed.placement.observation import DeviceView, Estimate, Hop, LinkView, Observation

RATE_TOLERANCE = 0.02  # by which samples may contradict a device's rate
LINK_TOLERANCE = 0.1  # and a link's rate
DELAY_TOLERANCE = 0.1  # and a link's delay
LINK_QUANTITIES = ("up", "down", "up_delay", "down_delay")
TOLERANCES = {
    "streaming": RATE_TOLERANCE, "compute": RATE_TOLERANCE, "memory": 0.0, "up": LINK_TOLERANCE, "down": LINK_TOLERANCE,
    "up_delay": DELAY_TOLERANCE, "down_delay": DELAY_TOLERANCE,
}  # fmt: skip
TOLD_SPREAD = 0.1  # of a value that was told and never seen
SPREAD_PER_S = 0.01  # an estimate becomes less certain by this much in each second without a sample
SLOWEST = 1.0  # rate of a device, in FLOP/s or byte/s: a policy divides by it
NOISES = 10  # operations of a kind must last so many times the noise of a time stamp to be samples


class Operation(NamedTuple):
    """One operation of a device, with FLOPs and bytes as the device's model counts them."""

    device: str
    flops: float
    read_bytes: float
    seconds: float  # without barriers


@dataclass
class Belief:
    """One quantity: what was told of it, or what was seen last."""

    value: float
    tolerance: float
    heard_s: float | None = None
    off: float = TOLD_SPREAD  # by how much the last sample contradicted it

    def hear(self, sample: float, now_s: float) -> None:
        """Take in a sample. What is no number, or below zero, is no sample."""
        if not math.isfinite(sample) or sample < 0:
            return
        largest = max(sample, self.value)
        self.off = abs(sample - self.value) / largest if largest else 0.0
        self.heard_s = now_s
        if self.off > self.tolerance:
            self.value = sample

    def confirm(self, now_s: float) -> None:
        """Take note that what was seen agrees with the value."""
        self.heard_s, self.off = now_s, 0.0

    @property
    def state(self) -> tuple[float, float | None, float]:
        """All that changes, so that it can be put back."""
        return self.value, self.heard_s, self.off

    @state.setter
    def state(self, state: tuple[float, float | None, float]) -> None:
        self.value, self.heard_s, self.off = state

    def estimate(self, now_s: float) -> Estimate:
        """The value, its age and its uncertainty. What was never seen is as old as the run."""
        age_s = max(0.0, now_s - (self.heard_s or 0.0))
        known = TOLD_SPREAD if self.heard_s is None else max(self.tolerance, min(self.off, TOLD_SPREAD))
        return Estimate(self.value, age_s, min(1.0, known + SPREAD_PER_S * age_s))


class Estimator:
    """Estimates of all devices and links of a run.

    `told` is what devices and links are said to be before anything has been seen. `burst_bits` gives the bits that an
    idle link of a rate passes at once, and `noise_s` says how far off a time stamp may be.
    """

    def __init__(self, told: Observation, burst_bits: Callable[[float], float], noise_s: float) -> None:
        self._beliefs = {key: Belief(value, TOLERANCES[key[1]]) for key, value in values_of(told).items()}
        self._noise_s = noise_s
        self._paths = PathEstimates(told, Transit(burst_bits, noise_s, LINK_TOLERANCE), self._link)
        self._operations: dict[str, list[Operation]] = defaultdict(list)
        self._messages: list[Message] = []
        self._trains: list[Train] = []
        self._sampled: set[tuple[str, str]] = set()  # memory since the last interval
        self.used: frozenset[tuple[str, str]] = frozenset()  # (target, quantity) of what the last interval used

    def _link(self, name: str, quantity: str) -> Belief:
        return self._beliefs[f"link/{name}", quantity]

    # --- samples -----------------------------------------------------------------------------------------

    def operations(self, operations: Iterable[Operation]) -> None:
        """What devices computed."""
        for operation in operations:
            least = min(operation.flops, operation.read_bytes)
            if operation.seconds > 0 and least >= 0 and _finite(operation[1:]):
                self._operations[operation.device].append(operation)

    def messages(self, messages: Iterable[Message]) -> None:
        """What travelled between devices."""
        self._messages += [message for message in messages if message.bits > 0 and _finite(message[2:])]

    def train(self, train: Train) -> None:
        """A burst over an idle path: a probe, or a migration."""
        if train.seconds > NOISES * self._noise_s and train.bits > 0 and _finite((train.bits, train.seconds)):
            self._trains.append(train)

    def memory(self, device: str, available_bytes: int, now_s: float) -> None:
        """What a device's kernel or ledger says that our blocks may use."""
        key = f"device/{device}", "memory"
        self._beliefs[key].hear(max(0.0, float(available_bytes)), now_s)  # others may hold more than is left
        self._sampled.add(key)

    def end_interval(self, now_s: float) -> None:
        """Turn the samples since the last interval into estimates, and forget the samples."""
        for device, operations in self._operations.items():
            if lasting := _lasting(operations, NOISES * self._noise_s):
                self._rates(device, lasting, now_s)
        hops = self._paths.hear(self._messages, now_s)
        self.hear_trains(now_s)
        carried = {(f"link/{name}", way) for name, way in hops}
        carried |= {(target, f"{way}_delay") for target, way in carried}
        computed = {key for key, belief in self._beliefs.items() if key[0][:6] == "device" and belief.heard_s == now_s}
        self.used = frozenset(carried | computed | self._sampled)
        self._sampled.clear()
        self._operations.clear()
        self._messages = []

    def hear_trains(self, now_s: float) -> None:
        """Turn bursts into estimates at once."""
        self._paths.hear_trains(self._trains, now_s)
        self._trains = []

    def restarted(self, device: str) -> None:
        """A device has started anew, with another clock perhaps."""
        self._paths.forget_clock(device)

    def _rates(self, device: str, operations: list[Operation], now_s: float) -> None:
        """A device's rates: an operation takes what its bytes take, or what its FLOPs take, whichever is longer."""
        streaming, compute = (self._beliefs[f"device/{device}", name] for name in ("streaming", "compute"))
        streamed: list[tuple[float, float]] = []  # (rate, seconds) of operations that wait for memory
        computed: list[tuple[float, float]] = []
        for _, flops, size, seconds in operations:
            by_bytes = size / streaming.value if streaming.value else math.inf
            by_flops = flops / compute.value if compute.value else math.inf
            if size and by_bytes >= by_flops:
                streamed.append((size / seconds, seconds))
            elif flops:
                computed.append((flops / seconds, seconds))
        for belief, found in ((streaming, streamed), (compute, computed)):
            if found:
                belief.hear(max(SLOWEST, weighted_median(found)), now_s)
        # No device is slower than what it has just done.
        for belief, least in (
            (streaming, [(size / seconds, seconds) for _, _, size, seconds in operations]),
            (compute, [(flops / seconds, seconds) for _, flops, _, seconds in operations]),
        ):
            reached = weighted_median(least)
            if reached > belief.value * (1 + belief.tolerance):
                belief.hear(reached, now_s)

    # --- estimates ---------------------------------------------------------------------------------------

    @property
    def doubted_links(self) -> set[Hop]:
        """The directions of links whose rate is in doubt."""
        return self._paths.doubted

    def stale_links(self, now_s: float, older_than_s: float) -> list[tuple[str, str]]:
        """The directions of links that have shown nothing for so long, or whose rate is in doubt: (link, up or down).

        A link that kept up with a path whose rate was seen has shown enough.
        """
        doubted, kept_up_s = self._paths.doubted, self._paths.kept_up_s
        found = []
        for (target, quantity), belief in self._beliefs.items():
            hop = target.removeprefix("link/"), quantity
            last_s = max(belief.heard_s or 0.0, kept_up_s.get(hop, 0.0))
            if quantity in ("up", "down") and (now_s - last_s > older_than_s or hop in doubted):
                found.append(hop)
        return found

    def estimates(self, now_s: float, announced: Mapping[str, int]) -> dict[tuple[str, str], Estimate]:
        """Every estimate by (target, quantity), with the words of traces: (`link/b`, `up`)."""
        found = {key: belief.estimate(now_s) for key, belief in self._beliefs.items()}
        for device, memory in announced.items():
            key = f"device/{device}", "memory"
            found[key] = found[key]._replace(value=min(found[key].value, float(memory)))
        return found

    def observation(self, known: Observation, now_s: float, announced: Mapping[str, int]) -> Observation:
        """What a policy sees. `known` is where the run stands; `announced` has the memory that was announced."""
        found = self.estimates(now_s, announced)

        def device(view: DeviceView) -> DeviceView:
            memory, streaming, compute = (
                found[f"device/{view.name}", quantity].value for quantity in ("memory", "streaming", "compute")
            )
            return replace(view, available_bytes=int(memory), streaming_Bps=streaming, compute_flops=compute)

        links = {
            name: LinkView(*(found[f"link/{name}", quantity].value for quantity in LINK_QUANTITIES))
            for name in known.links
        }
        return replace(known, devices=tuple(map(device, known.devices)), links=links, estimates=found)


def values_of(observation: Observation) -> dict[tuple[str, str], float]:
    """The values of an observation by (target, quantity), with the words of traces: (`link/b`, `up`)."""
    found: dict[tuple[str, str], float] = {}
    for view in observation.devices:
        values = {"streaming": view.streaming_Bps, "compute": view.compute_flops, "memory": float(view.available_bytes)}
        found |= {(f"device/{view.name}", quantity): value for quantity, value in values.items()}
    for name, link in observation.links.items():
        rates = link.up_bps, link.down_bps, link.up_delay_s, link.down_delay_s
        found |= {(f"link/{name}", quantity): value for quantity, value in zip(LINK_QUANTITIES, rates, strict=True)}
    return found


def _lasting(operations: Iterable[Operation], least_s: float) -> list[Operation]:
    """The operations of those kinds that mostly last longer; single short ones that the host held up are no samples.

    Operations are of one kind if their FLOPs and their bytes are of one order of two.
    """
    kinds: dict[tuple[int, int], list[Operation]] = defaultdict(list)
    for operation in operations:
        kinds[math.frexp(operation.flops)[1], math.frexp(operation.read_bytes)[1]].append(operation)
    return [
        each
        for alike in kinds.values()
        if statistics.median_low(operation.seconds for operation in alike) > least_s
        for each in alike
    ]


def _finite(numbers: Iterable[float]) -> bool:
    """Whether all of them are numbers; what is none is no sample."""
    return all(map(math.isfinite, numbers))


def weighted_median(values: Iterable[tuple[float, float]]) -> float:
    """The value below which half of the weight lies, of (value, weight); there must be some."""
    ordered = sorted(values)
    half, below = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        below += weight
        if below >= half:
            return value
    return ordered[-1][0]
