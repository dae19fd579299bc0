"""`exact-offline`: the best a whole run can do when it knows what is coming; the yardstick of what myopia costs.

Not a policy, which never sees the future, but a calculation over the observations of all the run's boundaries: a
dynamic programme whose states are all placements, so for tiny instances only (3 devices, one layer of 4 heads). A
path of placements costs the sum of the decisions' costs (`solve.decision_cost`), and every step of it must fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement, blocks_of, resident_bytes
from testbed.placement.cost.latency import OUTAGE_BPS, STALLED_RATE
from testbed.placement.cost.memory import device_needs, rooms_for
from testbed.placement.cost.model import BULK_WIRE_RATIO, MIGRATION_HANDSHAKE_S, cached_length, moved_bytes
from testbed.placement.exact.options import Ints
from testbed.placement.exact.program import Floats, path_delays
from testbed.placement.exact.solve import decision_cost
from testbed.placement.observation import Observation

PLACEMENTS = 5000  # states of the dynamic programme, at most


def best_run(observations: Sequence[Observation]) -> tuple[list[Placement], float]:
    """(the placement of each interval, seconds of all) for the observations at the run's boundaries, in order.

    Seconds are those of migrations and tokens, LM head left out; infinite, with no placements, when nothing fits.
    Raises ConfigError for networks with routes and for instances with too many placements.
    """
    first = observations[0]
    blocks = blocks_of(first.shape, first.partition)
    devices = len(first.devices)
    if first.routes is not None or devices ** len(blocks) > PLACEMENTS:
        raise ConfigError(
            f"exact-offline takes stars with at most {PLACEMENTS} placements, and {devices} devices with {len(blocks)} "
            f"blocks have {devices ** len(blocks)}: use fewer devices, layers or heads"
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
    way = [last]
    for step in before[::-1]:
        way.append(int(step[way[-1]]))
    return [placements[state] for state in way[::-1]], float(value[last])


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
