"""`exact-offline`: the best that a whole run can do when all its observations are known beforehand.

It measures what deciding interval by interval costs. It is no policy, because a policy never sees the future: it is a
dynamic programme over the observations at all the run's boundaries. Its states are all placements, so it can be used
for tiny instances only (3 devices, one layer of 4 heads). A sequence of placements costs the sum of its decisions
(`solve.decision_cost`), and every step of it must fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from testbed.errors import ConfigError
from testbed.placement.array_types import Floats, Ints
from testbed.placement.blocks import Placement, blocks_of, resident_bytes
from testbed.placement.cost.memory import device_needs, rooms_for
from testbed.placement.cost.model import BULK_WIRE_RATIO, MIGRATION_HANDSHAKE_S, cached_length, moved_bytes
from testbed.placement.exact.limits import OFFLINE_PLACEMENTS
from testbed.placement.exact.program import path_delays
from testbed.placement.exact.solve import decision_cost
from testbed.placement.latency import STALLED_RATE
from testbed.placement.observation import Observation
from testbed.wire import OUTAGE_BPS


def best_run(observations: Sequence[Observation]) -> tuple[list[Placement], float]:
    """(the placement of each interval, seconds of all) for the observations at the run's boundaries, in order.

    Seconds are those of migrations and tokens, LM head left out; infinite, with no placements, when nothing fits.
    Raises ConfigError for networks with routes and for instances with too many placements.
    """
    first = observations[0]
    blocks = blocks_of(first.shape, first.partition)
    devices = len(first.devices)
    if first.routes is not None or devices ** len(blocks) > OFFLINE_PLACEMENTS:
        raise ConfigError(
            f"exact-offline takes stars with at most {OFFLINE_PLACEMENTS} placements, and {devices} devices "
            f"with {len(blocks)} blocks have {devices ** len(blocks)}: use fewer devices, layers or heads"
        )
    states = np.array(list(product(range(devices), repeat=len(blocks))), np.int64)
    names = [view.name for view in first.devices]
    placements = [Placement(dict(zip(blocks, (names[d] for d in row), strict=True))) for row in states.tolist()]
    value = np.zeros(len(states))
    before: list[Ints] = []
    for number, observation in enumerate(observations):
        staying = np.array([_tokens_s(observation, placement) for placement in placements])
        if number:
            reached = [(value + _moving_s(observation, states, row)) for row in range(len(states))]
            before.append(np.array([int(costs.argmin()) for costs in reached]))
            value = np.array([costs.min() for costs in reached])
        value = value + staying
    if not np.isfinite(value.min()):
        return [], float("inf")
    last = int(value.argmin())
    taken = [last]
    for step in before[::-1]:
        taken.append(int(step[taken[-1]]))
    return [placements[state] for state in taken[::-1]], float(value[last])


def _tokens_s(observation: Observation, placement: Placement) -> float:
    """Seconds of the interval's tokens, infinite where they do not fit."""
    needs = device_needs(observation, placement, observation.final_length)
    if any(needs[view.name] > view.available_bytes for view in observation.devices):
        return float("inf")
    return decision_cost(observation, None, placement)


def _moving_s(observation: Observation, states: Ints, target: int) -> Floats:
    """Seconds to move from each state to one, infinite where double residency forbids it."""
    blocks = blocks_of(observation.shape, observation.partition)
    now = np.array([resident_bytes(observation.shape, b, observation.length, observation.partition) for b in blocks])
    sizes = [moved_bytes(observation, block, cached_length(observation)) for block in blocks]
    sent, loaded = (np.array(part, np.float64) for part in zip(*sizes, strict=True))
    goal = states[target]
    moved = states != goal
    delays = path_delays(observation)
    links = [observation.links[view.name] for view in observation.devices]
    busiest, fits = np.zeros(len(states)), np.ones(len(states), bool)
    for device, (view, room) in enumerate(zip(observation.devices, rooms_for(observation), strict=True)):
        comes, goes = moved & (goal == device), moved & (states == device)
        held = (states == device) @ now
        fits &= ~comes.any(1) | (held + comes @ now <= room)
        busiest = np.maximum(busiest, goes @ sent * BULK_WIRE_RATIO * 8 / max(links[device].up_bps, OUTAGE_BPS))
        busiest = np.maximum(busiest, comes @ sent * BULK_WIRE_RATIO * 8 / max(links[device].down_bps, OUTAGE_BPS))
        busiest = np.maximum(busiest, comes @ loaded / max(view.storage_Bps, STALLED_RATE))
    longest = np.where(moved, delays[states, goal[None, :]], 0.0).max(1)
    seconds = np.where(moved.any(1), busiest + longest + MIGRATION_HANDSHAKE_S, 0.0)
    return np.where(fits, seconds, np.inf)
