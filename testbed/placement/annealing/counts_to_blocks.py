"""From the counts of a search back to blocks: which units move, where the counts leave it open.

Units of a half are alike, so mostly the fewest moves are best, and the search has counted those. Shards and rows are
different, because their partial sums travel as the roots of complete subtrees. Few roots may take more moves than the
counts show, and few moves may leave more roots than the search has counted. So both are tried, and the cost model says
what they really cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from testbed.placement.annealing.problem import RECEIVERS, SENDERS, Problem, half_blocks, kind_of
from testbed.placement.annealing.search import Objective, SearchResult
from testbed.placement.annealing.state import (
    INTERVAL,
    LATER_LATENCY,
    MIGRATION,
    TOO_MANY_RUN,
    WEIGHTS,
    State,
    judged,
    load,
)
from testbed.placement.annealing.tuning import ASSIGNED, MIXED, ROUNDING
from testbed.placement.array_types import Ints
from testbed.placement.blocks import Block, Placement
from testbed.placement.cost.model import CostModel
from testbed.placement.local.draft import Draft
from testbed.placement.plan import halves_of
from testbed.placement.tree import mask_of, roots_of_mask

UNPLACED = -1
Devices = tuple[int, ...]
DeviceOfUnit = tuple[int, ...]  # of each unit of a half
Counts = tuple[int, ...]  # units by device


def placement_of(problem: Problem, model: CostModel, old: Placement | None, places: Ints) -> Placement:
    """The placement with these counts and targets, partial sums aligned; `old` itself if nothing moves."""
    return _placement(model, old, [half.aligned for half in _assignments(problem, model, old, places)])


class AssignedPlacement(NamedTuple):
    """A placement of blocks that fits, and what it really costs."""

    placement: Placement
    interval_s: float  # migration and tokens, LM head left out unless it is cut
    latency_s: float  # of one token of the interval


class BlockAssigner:
    """Assigns blocks to counts in one decision, from a present placement with partial sums."""

    def __init__(self, problem: Problem, model: CostModel, old: Placement) -> None:
        self._problem, self._model, self._old = problem, model, old
        self._draft = Draft(model, old, old, reserve=False)

    def assign(self, places: Ints, later_tokens: float) -> AssignedPlacement | None:
        """The cheapest placement with these counts that was found, or None if none fits.

        The `later_tokens` after the interval count as much as those in it.
        """
        halves = _assignments(self._problem, self._model, self._old, places)
        undecided = [number for number, half in enumerate(halves) if half.aligned != half.fewest]
        choice = [half.fewest for half in halves]
        best = self._cost(choice, later_tokens)
        if undecided:
            aligned = [half.aligned for half in halves]
            other = self._cost(aligned, later_tokens)
            if other < best:
                choice, best = aligned, other
        for number in undecided[:MIXED] if len(undecided) > 1 else ():
            before, half = choice[number], halves[number]
            choice[number] = half.fewest if before == half.aligned else half.aligned
            other = self._cost(choice, later_tokens)
            if other < best:
                best = other
            else:
                choice[number] = before
        if best == math.inf:
            return None
        self._cost(choice, later_tokens)
        return AssignedPlacement(_placement(self._model, self._old, choice), self._draft.cost, self._draft.latency)

    def _cost(self, choice: Sequence[DeviceOfUnit], later_tokens: float) -> float:
        """Seconds of the interval and of the tokens after it; infinite where it does not fit."""
        draft = self._draft
        wanted = [device for devices in choice for device in devices]
        draft.apply([(slot, device) for slot, device in enumerate(wanted) if draft.where[slot] != device])
        if not all(draft.fits(device) for device in range(len(draft.budgets))):
            return math.inf
        return draft.cost + later_tokens * draft.latency


def best_assigned(
    problem: Problem, state: State, assigner: BlockAssigner, result: SearchResult, objective: Objective
) -> Placement | None:
    """The best of what a search found, by the search's objective at real costs; None if nothing fits.

    A real interval costs at least what the search counted. So what it counted above the cap is not looked at.
    """
    later, weights = objective.later_tokens, np.zeros(WEIGHTS)
    cap = math.inf
    seen: set[bytes] = set()
    found: list[tuple[float, float, Placement]] = []  # seconds of the interval, the objective, and what costs that
    for counted in result.placements:
        key = counted.places.tobytes()
        if key in seen or counted.interval_s > cap or len(seen) == ASSIGNED:
            continue
        seen.add(key)
        real = assigner.assign(counted.places, later)
        if real is None:
            continue
        load(problem, state, counted.places, True)
        judged(problem, state, weights)
        figures = state.figures
        counted_s = (figures[INTERVAL] - figures[MIGRATION]) / problem.tokens
        latency_s = figures[LATER_LATENCY] + real.latency_s - counted_s  # with the roots that the search did not count
        value = later * latency_s + result.run_overfull_s * figures[TOO_MANY_RUN]
        cap = min(cap, (1 + objective.slack) * real.interval_s)
        found.append((real.interval_s, real.interval_s + float(value), real.placement))
    within = [(value, placement) for interval_s, value, placement in found if interval_s <= cap * (1 + ROUNDING)]
    return min(within, key=lambda one: one[0], default=(math.inf, None))[1]


# --- the two assignments of a half ------------------------------------------------------------------------------


class _Assignments(NamedTuple):
    """Two assignments of a half's blocks, its target's last; the same where there is nothing to choose."""

    aligned: DeviceOfUnit
    fewest: DeviceOfUnit


def _assignments(problem: Problem, model: CostModel, old: Placement | None, places: Ints) -> list[_Assignments]:
    senders, receivers = tuple(problem.devices[SENDERS].tolist()), tuple(problem.devices[RECEIVERS].tolist())
    pairs = half_blocks(model.observation)
    first, second = (kind.partial for kind in halves_of(model.partition))
    unmoved = (problem.old[:, :-1] == places[:, :-1]).all(axis=1)
    found: list[_Assignments] = []
    for half, (units, goal) in enumerate(pairs):
        *counts, target = places[half].tolist()
        wanted, end = tuple(counts), () if goal is None else (target,)
        present = None if old is None else tuple(model.index[old.devices[block]] for block in units)
        if present is not None and unmoved[half]:
            found.append(_Assignments(present + end, present + end))
        elif (first, second, False, False)[kind_of(half, len(pairs))]:
            aligned = aligned_runs(wanted, present)
            fewest = aligned if present is None else fewest_moves(wanted, present, senders, receivers, True)
            found.append(_Assignments(aligned + end, fewest + end))
        else:
            devices = fewest_moves(wanted, present, senders, receivers) + end
            found.append(_Assignments(devices, devices))
    return found


def _placement(model: CostModel, old: Placement | None, choice: Sequence[DeviceOfUnit]) -> Placement:
    devices: dict[Block, str] = {}
    for (units, goal), chosen in zip(half_blocks(model.observation), choice, strict=True):
        blocks = (*units, *(() if goal is None else (goal,)))
        devices.update((block, model.names[device]) for block, device in zip(blocks, chosen, strict=True))
    if old is not None and devices == old.devices:
        return old
    return Placement(devices, old.epoch + 1 if old is not None else 0)


@lru_cache(maxsize=512)
def fewest_moves(
    wanted: Counts,
    present: DeviceOfUnit | None,
    senders: Devices,
    receivers: Devices,
    partial: bool = False,
) -> DeviceOfUnit:
    """The device of each unit when the fewest move, paired as the search counts them; by index where none is placed.

    `wanted` counts units by device. Where results are `partial` sums, those units move that leave the fewest roots.
    """
    if present is None:
        return tuple(device for device, count in enumerate(wanted) for _ in range(count))
    where = list(present)
    spare = {device: present.count(device) - count for device, count in enumerate(wanted)}
    free = [device for device in senders for _ in range(spare[device])]
    for device in receivers:
        for _ in range(-spare[device]):
            source = free.pop(0)
            units = [unit for unit, at in enumerate(where) if at == source]
            first = units[wanted[source]]  # of those that must go
            where[_fewest_roots(where, units, device) if partial else first] = device
    return tuple(where)


def _fewest_roots(where: Sequence[int], units: Sequence[int], device: int) -> int:
    """Which of a device's units to give to another: the last of those that leave both with the fewest roots."""
    here, there = mask_of(units), mask_of(unit for unit, at in enumerate(where) if at == device)
    return min(
        units, key=lambda unit: (len(roots_of_mask(here ^ 1 << unit)) + len(roots_of_mask(there | 1 << unit)), -unit)
    )


@lru_cache(maxsize=512)
def aligned_runs(wanted: Counts, present: DeviceOfUnit | None) -> DeviceOfUnit:
    """The device of each leaf of a sum's tree: aligned runs, placed so that devices keep many of their leaves."""
    leaves = sum(wanted)
    pieces = [(1 << bit, device) for device, n in enumerate(wanted) for bit in range(n.bit_length()) if n >> bit & 1]
    where = [UNPLACED] * leaves
    pieces.sort(key=lambda piece: (-piece[0], piece[1]))
    while pieces:
        size = pieces[0][0]
        options = [
            (-_kept(present, start, size, device), number, start)
            for number, device in enumerate(device for length, device in pieces if length == size)
            for start in range(0, leaves - size + 1, size)
            if all(at == UNPLACED for at in where[start : start + size])
        ]
        _, number, start = min(options)
        where[start : start + size] = [pieces.pop(number)[1]] * size
    return tuple(where)


def _kept(present: DeviceOfUnit | None, start: int, size: int, device: int) -> int:
    return 0 if present is None else present[start : start + size].count(device)
