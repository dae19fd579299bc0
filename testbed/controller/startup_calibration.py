"""Before token 0: warms every connection, and measures what this host adds, so that the verdict knows the host.

It measures the software's time per hop, each link's rate and delay, how late a paced operation ends, and how long
workers wait for a core although nothing else is asked of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from testbed.controller.fleet import Fleet
from testbed.placement.latency import transfer_seconds
from testbed.placement.observation import Observation, path_rate_bps
from testbed.transport.messages import Collect, Collected, Pace, Paced, Ping, Pinged, Probe, Probed
from testbed.wire import TCP_SHARE

Effort = Literal["off", "quick", "full"]
Answer = Callable[[type[Any], str], Any]  # waits for the next event of a kind from a device

WARM_EVERY_PAIR_UP_TO = 12  # devices; in larger fleets only the connections around a ring are warmed
PING_COUNT = 8  # per probed pair; the first warms the connection and is not counted
PROBE_SECONDS = {"quick": 0.1, "full": 0.5}  # of the link's rate: the bucket's first burst weighs little
PROBE_LEAST_BYTES = 32 * 1024
# A probe is short, so anything that runs for milliseconds lowers its rate. One below this share of what TCP can reach
# is repeated, and the best attempt counts, because nothing makes a link seem faster than it is.
PROBE_AGAIN_BELOW = 0.9
PROBE_ATTEMPTS = 5
PROBE_MOST_BYTES = {"quick": 2_000_000, "full": 10_000_000}
PACE_COUNT = {"quick": 10, "full": 50}
PACE_SECONDS = 1e-3
PACED_DEVICES = {"quick": 4, "full": 1_000}  # more would only measure the same few cores again


@dataclass(frozen=True)
class ProbeResult:
    """One burst from device to device; wall seconds from the first to the last payload byte at the receiver."""

    sender: str
    receiver: str
    size: int
    seconds: float
    requested_bps: float


@dataclass(frozen=True)
class DelayResult:
    """The one-way delay between two devices, emulated seconds: as wanted, and as measured without software."""

    sender: str
    receiver: str
    expected_s: float
    measured_s: float


@dataclass(frozen=True)
class Calibrated:
    """What was measured. With effort `off` these are only the defaults."""

    effort: Effort = "off"
    hop_overhead_s: float | None = None  # emulated seconds per message beyond the cost model's path; the median
    pacing_floor_s: float = 0.0  # wall seconds by which a paced operation ends late; the 95th percentile
    wait_share: float = 0.0  # share of the time that a worker waited for a core meanwhile; the median device
    probes: Sequence[ProbeResult] = field(default_factory=tuple)
    delays: Sequence[DelayResult] = field(default_factory=tuple)


def calibrate(effort: Effort, fleet: Fleet, answer: Answer, observation: Observation) -> Calibrated:
    """Measure with this effort: `quick` around a ring of devices, `full` for every pair and for longer."""
    names = [view.name for view in observation.devices]
    every_pair = [(a, b) for a in names for b in names if a != b]
    # Around a ring, each device's uplink and each device's downlink carries one probe.
    ring = list(zip(names, [*names[1:], names[0]], strict=True)) if len(names) > 1 else []
    warmed = every_pair if len(names) <= WARM_EVERY_PAIR_UP_TO else ring
    if effort == "off":
        _ping(fleet, answer, warmed, 1)
        return Calibrated()
    chosen = ring if effort == "quick" else every_pair
    waited, started = _waits(fleet, answer, names), fleet.clock.wall()
    trips = _ping(fleet, answer, warmed, 1) | _ping(fleet, answer, chosen, PING_COUNT)
    hop = _hop_overhead(trips, observation)
    probes = [_best_probe(effort, fleet, answer, pair, observation) for pair in chosen]
    waits = _waits(fleet, answer, names)
    shares = [(waits[name] - waited[name]) / (fleet.clock.wall() - started) for name in names]
    return Calibrated(
        effort,
        max(0.0, hop),
        _pacing_floor(effort, fleet, answer, names),
        _median(shares),
        [probe for probe in probes if probe is not None],
        [DelayResult(a, b, _delay(observation, a, b), _median(trips[a, b]) / 2 - max(0.0, hop)) for a, b in chosen],
    )


def _ping(
    fleet: Fleet, answer: Answer, pairs: Sequence[tuple[str, str]], count: int
) -> dict[tuple[str, str], list[float]]:
    """Round trips of an empty message per pair, emulated seconds. Where there are several, the first is left out."""
    trips = {}
    for device, peer in pairs:
        fleet.send(device, Ping(peer, count))
        found: Pinged = answer(Pinged, device)
        trips[device, peer] = [fleet.clock.duration(trip) for trip in found.round_trips_s][min(1, count - 1) :]
    return trips


def _hop_overhead(trips: Mapping[tuple[str, str], list[float]], observation: Observation) -> float:
    excess = []
    for (a, b), found in trips.items():
        if len(found) > 1:
            there = transfer_seconds(observation.path(a, b), 0.0)
            back = transfer_seconds(observation.path(b, a), 0.0)
            excess += [(trip - there - back) / 2 for trip in found]
    return _median(excess)


def _delay(observation: Observation, a: str, b: str) -> float:
    """The mean of the two directions' delays, which is all that a round trip can tell."""
    return sum(leg.delay_s for path in (observation.path(a, b), observation.path(b, a)) for leg in path) / 2


def _best_probe(
    effort: Literal["quick", "full"], fleet: Fleet, answer: Answer, pair: tuple[str, str], observation: Observation
) -> ProbeResult | None:
    """The fastest of the bursts, which are repeated until one comes near the path's rate; None for a path at rate 0."""
    best = _probe(effort, fleet, answer, pair, observation)
    for _ in range(PROBE_ATTEMPTS - 1):
        if best is None or _share(best, fleet) >= PROBE_AGAIN_BELOW:
            break
        again = _probe(effort, fleet, answer, pair, observation)
        best = min(best, again or best, key=lambda each: each.seconds)
    return best


def _share(probe: ProbeResult, fleet: Fleet) -> float:
    """A burst's rate, as a share of what TCP can reach at the path's rate."""
    return probe.size * 8 / fleet.clock.duration(probe.seconds) / (TCP_SHARE * probe.requested_bps)


def _probe(
    effort: Literal["quick", "full"], fleet: Fleet, answer: Answer, pair: tuple[str, str], observation: Observation
) -> ProbeResult | None:
    """Time one burst; None for a path at rate 0."""
    sender, receiver = pair
    path = observation.path(sender, receiver)
    requested = path_rate_bps(path)
    if not requested:
        return None
    wanted = requested / 8 * PROBE_SECONDS[effort]
    size = round(min(PROBE_MOST_BYTES[effort], max(PROBE_LEAST_BYTES, wanted)))
    fleet.send(sender, Probe(receiver, size))
    probed: Probed = answer(Probed, receiver)
    # The first frame arrived after the sender's stamp and before the receiver's. A receiver that was woken late stamps
    # late, which makes the link seem too fast, so the time since the sender's stamp counts up to the ideal time.
    on_its_way_s = sum(leg.delay_s for leg in path) * fleet.clock.dilation
    ideal_s = probed.size * 8 / (TCP_SHARE * requested) * fleet.clock.dilation
    seconds = max(probed.seconds, min(ideal_s, probed.since_sent_s - on_its_way_s))
    return ProbeResult(sender, receiver, probed.size, seconds, requested)


def _pacing_floor(effort: Literal["quick", "full"], fleet: Fleet, answer: Answer, names: Sequence[str]) -> float:
    late: list[float] = []
    for name in names[: PACED_DEVICES[effort]]:
        fleet.send(name, Pace(PACE_COUNT[effort], PACE_SECONDS))
        paced: Paced = answer(Paced, name)
        late += paced.late_s
    return sorted(late)[int(0.95 * (len(late) - 1))]


def _waits(fleet: Fleet, answer: Answer, names: Sequence[str]) -> dict[str, float]:
    for name in names:
        fleet.send(name, Collect(0))
    found: dict[str, Collected] = {name: answer(Collected, name) for name in names}
    return {name: collected.runqueue_wait_s for name, collected in found.items()}


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0
