"""Before token 0: connections are warmed, and what this host adds is measured, so that a run is judged where it runs.

Measured are the software's time per hop, each link's rate and delay, how late a paced operation ends, and how much of
the time workers wait for a core although nothing else is wanted of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from testbed.controller.fleet import Fleet
from testbed.link_limits import TCP_SHARE
from testbed.placement.cost.latency import transfer_seconds
from testbed.placement.observation import Observation
from testbed.transport.messages import Collect, Collected, Pace, Paced, Ping, Pinged, Probe, Probed

Effort = Literal["off", "quick", "full"]
Answer = Callable[[type[Any], str], Any]  # waits for the next event of a kind from a device

WARM_EVERY_PAIR_UP_TO = 12  # devices; in larger fleets the connections around the ring are warmed
PING_COUNT = 8  # per probed pair; the first warms the connection and is not counted
PROBE_SECONDS = {"quick": 0.1, "full": 0.5}  # of the link's rate, so that the bucket's first burst weighs little
PROBE_LEAST_BYTES = 32 * 1024
PROBE_AGAIN_BELOW = 0.9  # of what TCP can get: a probe is short, and whatever else runs for milliseconds costs it rate;
PROBE_ATTEMPTS = 5  # it is then made again, and the best counts, because nothing makes a link seem faster than it is
PROBE_MOST_BYTES = {"quick": 2_000_000, "full": 10_000_000}
PACE_COUNT = {"quick": 10, "full": 50}
PACE_SECONDS = 1e-3
PACED_DEVICES = {"quick": 4, "full": 1_000}  # a hundred devices share the same few cores


@dataclass(frozen=True)
class ProbeResult:
    """One burst from device to device; wall seconds from its first to its last payload byte at the receiver."""

    sender: str
    receiver: str
    size: int
    seconds: float
    requested_bps: float


@dataclass(frozen=True)
class DelayResult:
    """One-way delay between two devices, emulated seconds: asked for, and measured less the software's time."""

    sender: str
    receiver: str
    expected_s: float
    measured_s: float


@dataclass(frozen=True)
class Calibrated:
    """What was measured; with effort `off` only the defaults."""

    effort: Effort = "off"
    hop_overhead_s: float | None = None  # median emulated seconds a message takes beyond the cost model's path
    pacing_floor_s: float = 0.0  # 95th percentile of how late a paced operation ends, wall seconds
    wait_share: float = 0.0  # of the time, that a worker waited for a core during calibration; median over devices
    probes: Sequence[ProbeResult] = field(default_factory=tuple)
    delays: Sequence[DelayResult] = field(default_factory=tuple)


def calibrate(effort: Effort, fleet: Fleet, answer: Answer, observation: Observation) -> Calibrated:
    """Measure with the effort asked for: `quick` around a ring of devices, `full` for every pair and longer."""
    names = [view.name for view in observation.devices]
    every_pair = [(a, b) for a in names for b in names if a != b]
    # Around a ring every device's uplink and every device's downlink carries one probe.
    ring = list(zip(names, [*names[1:], names[0]], strict=True)) if len(names) > 1 else []
    warmed = every_pair if len(names) <= WARM_EVERY_PAIR_UP_TO else ring
    if effort == "off":
        _ping(fleet, answer, warmed, 1)
        return Calibrated()
    chosen = ring if effort == "quick" else every_pair
    waited, started = _waits(fleet, answer, names), fleet.clock.wall()
    trips = _ping(fleet, answer, warmed, 1) | _ping(fleet, answer, chosen, PING_COUNT)
    hop = _hop_overhead(trips, observation, fleet)
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
    """Round trips of an empty message per pair, emulated seconds, the first left out where there are more."""
    trips = {}
    for device, peer in pairs:
        fleet.send(device, Ping(peer, count))
        found: Pinged = answer(Pinged, device)
        trips[device, peer] = [fleet.clock.duration(trip) for trip in found.round_trips_s][min(1, count - 1) :]
    return trips


def _hop_overhead(trips: Mapping[tuple[str, str], list[float]], observation: Observation, fleet: Fleet) -> float:
    excess = []
    for (a, b), found in trips.items():
        if len(found) > 1:
            there = transfer_seconds(observation.path(a, b), 0.0)
            back = transfer_seconds(observation.path(b, a), 0.0)
            excess += [(trip - there - back) / 2 for trip in found]
    return _median(excess)


def _delay(observation: Observation, a: str, b: str) -> float:
    """Mean of the two directions' delays: all that a round trip can tell."""
    return sum(leg.delay_s for path in (observation.path(a, b), observation.path(b, a)) for leg in path) / 2


def _best_probe(
    effort: Literal["quick", "full"], fleet: Fleet, answer: Answer, pair: tuple[str, str], observation: Observation
) -> ProbeResult | None:
    """The fastest of as many bursts as it takes to get near the path's rate; None for a path at rate 0."""
    best = _probe(effort, fleet, answer, pair, observation)
    for _ in range(PROBE_ATTEMPTS - 1):
        if best is None or _share(best, fleet) >= PROBE_AGAIN_BELOW:
            break
        again = _probe(effort, fleet, answer, pair, observation)
        best = min(best, again or best, key=lambda each: each.seconds)
    return best


def _share(probe: ProbeResult, fleet: Fleet) -> float:
    """What a burst reached, of what TCP can get from the path's rate."""
    return probe.size * 8 / fleet.clock.duration(probe.seconds) / (TCP_SHARE * probe.requested_bps)


def _probe(
    effort: Literal["quick", "full"], fleet: Fleet, answer: Answer, pair: tuple[str, str], observation: Observation
) -> ProbeResult | None:
    """Time one burst; None for a path at rate 0."""
    sender, receiver = pair
    path = observation.path(sender, receiver)
    requested = min(leg.rate_bps for leg in path)
    if not requested:
        return None
    wanted = requested / 8 * PROBE_SECONDS[effort]
    size = round(min(PROBE_MOST_BYTES[effort], max(PROBE_LEAST_BYTES, wanted)))
    fleet.send(sender, Probe(receiver, size))
    probed: Probed = answer(Probed, receiver)
    # The first frame was there after the sender's stamp and before the receiver's, which is late where the receiver was
    # woken late, and then makes the link seem too fast. What is between the two speaks for the link as far as it can.
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
