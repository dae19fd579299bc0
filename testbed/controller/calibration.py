"""Before token 0: every connection is warmed, the software's time per hop measured, and each link's rate probed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.controller.fleet import Fleet
from testbed.placement.latency import transfer_seconds
from testbed.placement.observation import LinkView
from testbed.transport.messages import Ping, Pinged, Probe, Probed

PING_COUNT = 8  # per neighbouring pair; the first warms the connection and is not counted
PROBE_SECONDS = 0.1  # of the link's rate, so that the bucket's first burst weighs little
PROBE_LEAST_BYTES = 32 * 1024
PROBE_MOST_BYTES = 2_000_000


@dataclass(frozen=True)
class ProbeResult:
    """One burst from neighbour to neighbour; wall seconds from its first to its last payload byte."""

    sender: str
    receiver: str
    size: int
    seconds: float
    requested_bps: float


class Calibration:
    """Asks workers to bounce and to send; `answer(kind, device)` waits for the next event of a kind from a device."""

    def __init__(self, fleet: Fleet, answer: Callable[[type[Any], str], Any], names: Sequence[str]) -> None:
        self._fleet, self._answer, self._names = fleet, answer, names
        # Around a ring every device's uplink and every device's downlink carries one probe.
        self._ring = list(zip(names, [*names[1:], names[0]], strict=True)) if len(names) > 1 else []

    def hop_overhead_s(self, links: Mapping[str, LinkView]) -> float:
        """Median emulated seconds that one message takes beyond what the cost model says of its path.

        Every pair is pinged once, so that no connection is cold at token 0; neighbours more often.
        """
        excess: list[float] = []
        for device in self._names:
            for peer in self._names:
                if device == peer:
                    continue
                count = PING_COUNT if (device, peer) in self._ring else 1
                self._fleet.send(device, Ping(peer, count))
                answer: Pinged = self._answer(Pinged, device)
                there = transfer_seconds(links[device], links[peer], 0.0, 0.0)
                back = transfer_seconds(links[peer], links[device], 0.0, 0.0)
                trips = [self._fleet.clock.duration(trip) for trip in answer.round_trips_s[1:]]
                excess += [(trip - there - back) / 2 for trip in trips]
        return max(0.0, sorted(excess)[len(excess) // 2]) if excess else 0.0

    def probe_rates(self, path_bps: Callable[[str, str], float]) -> Iterator[ProbeResult]:
        """Time one burst over every uplink and downlink; a path at rate 0 is left out."""
        for device, peer in self._ring:
            requested = path_bps(device, peer)
            if not requested:
                continue
            size = round(min(PROBE_MOST_BYTES, max(PROBE_LEAST_BYTES, requested / 8 * PROBE_SECONDS)))
            self._fleet.send(device, Probe(peer, size))
            probed: Probed = self._answer(Probed, peer)
            yield ProbeResult(device, peer, probed.size, probed.seconds, requested)
