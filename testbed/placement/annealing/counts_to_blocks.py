"""From a search's counts back to blocks: which units move, where counts leave it open.

Units of a half are alike, so mostly the fewest moves are best, and the search has counted them. Not so shards and
rows, whose partial sums travel as the roots of complete subtrees: few roots may need more moves than the counts do,
and few moves may leave more roots than the search has counted. So both are tried, at the cost model's real price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from testbed.placement.annealing.problem import RECEIVERS, SENDERS, Problem, half_blocks, kind_of
from testbed.placement.annealing.search import Aim, Found, Seeker
from testbed.placement.annealing.state import (
    INTERVAL,
    LATER_LATENCY,
    MIGRATION,
    RUN_OVERFULL,
    TOO_MANY_RUN,
    judged,
    load,
)
from testbed.placement.blocks import Block, Placement
from testbed.placement.cost.kernel import Ints
from testbed.placement.cost.model import CostModel
from testbed.placement.local.draft import Draft
from testbed.placement.plan import halves_of
from testbed.placement.tree import mask_of, roots_of_mask

UNPLACED = -1
MIXED = 16  # halves of one placement that are tried the other way, at most
LOOKED_AT = 12  # of the placements that the search found, at most
Seats = tuple[int, ...]  # the device of each unit of a half


def placement_of(problem: Problem, model: CostModel, old: Placement | None, places: Ints) -> Placement:
    """The placement with these counts and targets, partial sums aligned; `old` itself if nothing moves."""
    return _placement(model, old, [half.aligned for half in _halves(problem, model, old, places)])


class Unfolded(NamedTuple):
    """A placement that fits, and what it really costs."""

    placement: Placement
    interval_s: float  # migration and tokens, LM head left out unless it is cut
    latency_s: float  # of one token of the interval


class Unfolder:
    """One decision's way back, from a present placement with partial sums."""

    def __init__(self, problem: Problem, model: CostModel, old: Placement) -> None:
        self._problem, self._model, self._old = problem, model, old
        self._draft = Draft(model, old, old, reserve=False)

    def unfold(self, places: Ints, later_tokens: float) -> Unfolded | None:
        """The cheapest found with these counts, a token after the interval counting like one of it; None: none fits."""
        halves = _halves(self._problem, self._model, self._old, places)
        open_halves = [number for number, half in enumerate(halves) if half.aligned != half.fewest]
        choice = [half.fewest for half in halves]
        best = self._cost(choice, later_tokens)
        if open_halves:
            aligned = [half.aligned for half in halves]
            other = self._cost(aligned, later_tokens)
            if other < best:
                choice, best = aligned, other
        for number in open_halves[:MIXED] if len(open_halves) > 1 else ():
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
        return Unfolded(_placement(self._model, self._old, choice), self._draft.cost, self._draft.latency)

    def _cost(self, choice: Sequence[Seats], later_tokens: float) -> float:
        """Seconds of the interval and of the tokens after it; infinite where it does not fit."""
        draft = self._draft
        wanted = [device for seats in choice for device in seats]
        draft.apply([(slot, device) for slot, device in enumerate(wanted) if draft.where[slot] != device])
        if not all(draft.fits(device) for device in range(len(draft.budgets))):
            return math.inf
        return draft.cost + later_tokens * draft.latency


def best_unfolded(seeker: Seeker, unfolder: Unfolder, groups: Sequence[Sequence[Found]], aim: Aim) -> Placement | None:
    """Of what a search found, the best at its real price: the search's own aim, on placements that can be had.

    A real interval costs at least what the search counted, so what was counted above the cap is not looked at.
    """
    problem, state, later = seeker.problem, seeker.state, aim.later_tokens
    cap = math.inf
    seen: set[bytes] = set()
    found: list[tuple[float, float, Placement]] = []  # seconds of the interval, and of all, and what costs that
    for one in (one for group in groups for one in group):
        key = one.places.tobytes()
        if key in seen or one.interval_s > cap or len(seen) == LOOKED_AT:
            continue
        seen.add(key)
        real = unfolder.unfold(one.places, later)
        if real is None:
            continue
        load(problem, state, one.places, True)
        judged(problem, state, seeker.weights)
        counted_s = (state.figures[INTERVAL] - state.figures[MIGRATION]) / problem.tokens
        latency_s = state.figures[LATER_LATENCY] + real.latency_s - counted_s  # roots that the search did not count
        value = later * latency_s + seeker.weights[RUN_OVERFULL] * state.figures[TOO_MANY_RUN]
        cap = min(cap, (1 + aim.slack) * real.interval_s)
        found.append((real.interval_s, real.interval_s + float(value), real.placement))
    within = [(value, placement) for interval_s, value, placement in found if interval_s <= cap * (1 + 1e-9)]
    return min(within, key=lambda one: one[0], default=(math.inf, None))[1]


# --- halves ------------------------------------------------------------------------------------------------------


class _Half(NamedTuple):
    """Two ways to seat a half's blocks, its target's last; the same where nothing is to choose."""

    aligned: Seats
    fewest: Seats


def _halves(problem: Problem, model: CostModel, old: Placement | None, places: Ints) -> list[_Half]:
    senders, receivers = tuple(problem.devices[SENDERS].tolist()), tuple(problem.devices[RECEIVERS].tolist())
    pairs = half_blocks(model.observation)
    first, second = (kind.partial for kind in halves_of(model.partition))
    found: list[_Half] = []
    for half, (units, goal) in enumerate(pairs):
        *counts, target = places[half].tolist()
        wanted, end = tuple(counts), () if goal is None else (target,)
        present = None if old is None else tuple(model.index[old.devices[block]] for block in units)
        if present is not None and all(present.count(device) == count for device, count in enumerate(wanted)):
            found.append(_Half(present + end, present + end))
        elif (first, second, False, False)[kind_of(half, len(pairs))]:
            aligned = aligned_near(wanted, present)
            fewest = aligned if present is None else dealt(wanted, present, senders, receivers, True)
            found.append(_Half(aligned + end, fewest + end))
        else:
            seats = dealt(wanted, present, senders, receivers) + end
            found.append(_Half(seats, seats))
    return found


def _placement(model: CostModel, old: Placement | None, choice: Sequence[Seats]) -> Placement:
    devices: dict[Block, str] = {}
    for (units, goal), seats in zip(half_blocks(model.observation), choice, strict=True):
        blocks = (*units, *(() if goal is None else (goal,)))
        devices.update((block, model.names[device]) for block, device in zip(blocks, seats, strict=True))
    if old is not None and devices == old.devices:
        return old
    return Placement(devices, old.epoch + 1 if old is not None else 0)


@lru_cache(maxsize=4096)
def dealt(wanted: Seats, present: Seats | None, senders: Seats, receivers: Seats, partial: bool = False) -> Seats:
    """The device of each unit: by index at first, then the fewest moves, paired as the search counts them.

    `wanted` counts units by device; where results are `partial` sums, those units move that leave the fewest roots.
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
    """Which of a device's units is best given to another: the last that leaves both with the fewest roots."""
    here, there = mask_of(units), mask_of(unit for unit, at in enumerate(where) if at == device)
    return min(
        units, key=lambda unit: (len(roots_of_mask(here ^ 1 << unit)) + len(roots_of_mask(there | 1 << unit)), -unit)
    )


@lru_cache(maxsize=4096)
def aligned_near(wanted: Seats, present: Seats | None) -> Seats:
    """The device of each leaf of a sum's tree: aligned runs for each device, over what it has now where it can be."""
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


def _kept(present: Seats | None, start: int, size: int, device: int) -> int:
    return 0 if present is None else present[start : start + size].count(device)
