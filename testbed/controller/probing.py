"""Probes of links that have carried nothing lately, within a budget of each link's own time. No I/O.

A probe is a short burst over a path, timed by its receiver's clock alone, and mostly a longer one after it. The short
one tells how long the longer may be, so that a link which has become slow costs little. Each direction of a link earns
a share of the time that passes, and a burst costs every direction that it crosses the time of its bits at the rate that
is believed. What it takes longer than that is charged afterwards. So a budget may be overdrawn by one burst, which must
then be earned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from testbed.placement.latency import message_bits
from testbed.placement.observation import Hop, Leg, Observation

STALE_INTERVALS = 4  # a link is probed when nothing has been seen of it for so many intervals
EARNED_INTERVALS = 8  # what a link has earned and not used for so long is lost, but for the price of a short burst
MOST_S = 0.02  # a longer burst tells hardly more, and tokens wait for it
SHORT_BYTES = 8 * 1024  # a smaller burst would time the software
SHORT_BITS = message_bits(SHORT_BYTES)


class Probe(NamedTuple):
    """One burst to send."""

    sender: str
    receiver: str
    size: int = SHORT_BYTES  # of payload
    bits: float = SHORT_BITS  # on the wire


@dataclass
class ProbeBudget:
    """What each direction of a link may spend on probes, in seconds of its time."""

    share: float

    def __post_init__(self) -> None:
        self._earned_s: dict[Hop, float] = defaultdict(float)
        self.spent_s: dict[Hop, float] = defaultdict(float)

    def earn(self, interval_s: float, rates: Mapping[Hop, float]) -> None:
        """Let time pass, in which links are believed to have these rates."""
        gained = self.share * interval_s
        for hop, rate_bps in rates.items():
            most_s = max(EARNED_INTERVALS * gained, SHORT_BITS / rate_bps)
            self._earned_s[hop] = min(self._earned_s[hop] + gained, most_s)

    def choose(
        self, seen: Observation, stale: Iterable[Hop], doubted: Collection[Hop] = (), lost: Collection[str] = ()
    ) -> list[Probe]:
        """The first bursts to stale links that the budget allows now; each direction is crossed by one at most.

        Two `doubted` ones are looked at apart where they can be, because a slow burst does not tell them apart. Nobody
        sends to a `lost` device or receives from it.
        """
        names = [view.name for view in seen.devices if view.name not in lost]
        wanted, taken = set(stale), set[Hop]()
        found = []
        pairs = [(sender, receiver) for sender in names for receiver in names if sender != receiver]

        def rank(pair: tuple[str, str]) -> tuple[bool, int]:
            hops = {leg.hop for leg in seen.path(*pair)}
            return len(hops & {*doubted}) > 1, -len(hops & wanted)

        for pair in sorted(pairs, key=rank):
            cost_s = _cost_s(seen.path(*pair), SHORT_BITS)
            if not wanted & {*cost_s} or taken & {*cost_s}:
                continue
            if all(seconds <= self._earned_s[hop] for hop, seconds in cost_s.items()):
                self._spend(cost_s)
                found.append(Probe(*pair))
                taken |= {*cost_s}
                wanted -= {*cost_s}
        return found

    def first(self, told: Observation) -> list[Probe]:
        """A short burst from the source to every other device and back, on credit, before anything has been seen."""
        others = [view.name for view in told.devices if view.name != told.source]
        ways = [(told.source, name) for name in others] + [(name, told.source) for name in others]
        found = [Probe(*pair) for pair in ways if self.share]
        for probe in found:
            self._spend(_cost_s(told.path(*probe[:2]), probe.bits))
        return found

    def longer(self, seen: Observation, after: Probe, rate_bps: float, lent_s: float) -> Probe | None:
        """The burst that follows a short one which has shown this rate; None where it would tell too little."""
        path = seen.path(*after[:2])
        second_s = _cost_s([leg._replace(rate_bps=max(leg.rate_bps, rate_bps)) for leg in path], 1.0)
        allowed = ((self._earned_s[hop] + lent_s) / per_bit_s for hop, per_bit_s in second_s.items())
        most_bits = min(MOST_S * rate_bps, *allowed)
        size = int(most_bits / 8)
        while size >= SHORT_BYTES and message_bits(size) > most_bits:
            size = int(0.95 * size)  # headers come on top
        if size < 2 * SHORT_BYTES:
            return None
        probe = Probe(*after[:2], size, message_bits(size))
        self._spend({hop: probe.bits * per_bit_s for hop, per_bit_s in second_s.items()})
        return probe

    def late(self, hops: Iterable[Hop], seconds: float) -> None:
        """Charge what a probe took longer than it should have."""
        for hop in hops:
            self._earned_s[hop] -= seconds
            self.spent_s[hop] += seconds

    def _spend(self, cost_s: Mapping[Hop, float]) -> None:
        for hop, seconds in cost_s.items():
            self._earned_s[hop] -= seconds
            self.spent_s[hop] += seconds


def _cost_s(path: Iterable[Leg], bits: float) -> dict[Hop, float]:
    """How long a burst occupies each direction of a link on its path."""
    found: dict[Hop, float] = defaultdict(float)
    for leg in path:
        found[leg.hop] += bits / leg.rate_bps
    return found
