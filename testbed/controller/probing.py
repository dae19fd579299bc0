"""Probes of links that have carried nothing lately, within a budget of each link's own time. No I/O.

A probe is a burst over a path, timed by its receiver's clock alone. Each direction of a link earns a share of the time
that passes, and a probe costs every direction that it crosses the time of its bits at the rate that is believed. What
it takes longer than that is charged afterwards. So a budget may be overdrawn by one burst, which must then be earned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from testbed.placement.latency import message_bits
from testbed.placement.observation import Hop, Observation

STALE_INTERVALS = 4  # a link is probed when nothing has been seen of it for so many intervals
EARNED_INTERVALS = 8  # what a link has earned and not used for so long is lost
MOST_S = 0.02  # a longer burst tells hardly more, and tokens wait for it
LEAST_BYTES = 8 * 1024  # a smaller probe would time the software


class Probe(NamedTuple):
    """One burst to send."""

    sender: str
    receiver: str
    size: int  # payload bytes
    bits: float  # on the wire


@dataclass
class ProbeBudget:
    """What each direction of a link may spend on probes, in seconds of its time."""

    share: float

    def __post_init__(self) -> None:
        self._earned_s: dict[Hop, float] = defaultdict(float)
        self.spent_s: dict[Hop, float] = defaultdict(float)

    def earn(self, interval_s: float, hops: Iterable[Hop]) -> None:
        """Let time pass."""
        gained = self.share * interval_s
        for hop in hops:
            self._earned_s[hop] = min(self._earned_s[hop] + gained, EARNED_INTERVALS * gained)

    def choose(self, seen: Observation, stale: Iterable[Hop]) -> list[Probe]:
        """The probes of stale links that the budget allows now; each direction is crossed by one at most."""
        names = [view.name for view in seen.devices]
        wanted, taken = set(stale), set[Hop]()
        found = []
        pairs = [(sender, receiver) for sender in names for receiver in names if sender != receiver]
        for pair in sorted(pairs, key=lambda pair: -len(wanted & {leg.hop for leg in seen.path(*pair)})):
            path = seen.path(*pair)
            hops = {leg.hop for leg in path}
            if not wanted & hops or taken & hops:
                continue
            most_bits = min(min(MOST_S, self._earned_s[leg.hop]) * leg.rate_bps for leg in path)
            size = int(most_bits / 8)
            while size >= LEAST_BYTES and message_bits(size) > most_bits:
                size = int(0.95 * size)  # headers come on top
            if size >= LEAST_BYTES:
                probe = Probe(*pair, size, message_bits(size))
                self._spend(probe, {leg.hop: leg.rate_bps for leg in path})
                found.append(probe)
                taken |= hops
                wanted -= hops
        return found

    def late(self, hops: Iterable[Hop], seconds: float) -> None:
        """Charge what a probe took longer than it should have."""
        for hop in hops:
            self._earned_s[hop] -= seconds
            self.spent_s[hop] += seconds

    def _spend(self, probe: Probe, rates: Mapping[Hop, float]) -> None:
        for hop, rate_bps in rates.items():
            self._earned_s[hop] -= probe.bits / rate_bps
            self.spent_s[hop] += probe.bits / rate_bps
