"""The search for a placement: from several starts by descent, then annealing, then for the time after the interval.

The effort is a count of moves, so the same decision is found on every machine. What is found is a list of places
(counts and targets), best first; whether the first of them can be had as blocks is for the caller to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from testbed.placement.annealing.moves import search
from testbed.placement.annealing.pipelines import best_chains, tries_of
from testbed.placement.annealing.problem import END, Problem, make_problem
from testbed.placement.annealing.shortest_paths import best_ways
from testbed.placement.annealing.starts import first_starts
from testbed.placement.annealing.state import (
    CAP,
    INTERVAL,
    LATER_WEIGHT,
    MIGRATION,
    OVER_CAP,
    OVERFULL,
    RUN_OVERFULL,
    TOO_MANY,
    WEIGHTS,
    State,
    judged,
    load,
    new_state,
)
from testbed.placement.blocks import Partition
from testbed.placement.cost.kernel import Ints
from testbed.placement.cost.model import cost_model
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.shape import ModelShape

# Annealing, in units of the interval's cost per half, less hot for a first placement, which begins from better starts,
# but not where there are moves for one of them only; and the share of its weight that overfilling costs at first.
FIRST_HOT, ONLY_HOT, HOT, COLD, SOFT = 0.1, 0.3, 1.0, 0.005, 0.03
COOL = 0.05  # where annealing for the time afterwards begins, in the same units
OVERFULL_WEIGHT = 3.0  # intervals' costs that overfilling by the bytes of the largest block costs
CAP_WEIGHT = 100.0  # seconds that one second above the cap costs
# Moves looked at in one decision: fewer the more halves a token passes, because each takes longer and there are more.
FIRST_EFFORT, LATER_EFFORT = 6e9, 4e8  # divided by the square, later by the cube, of the number of halves
FIRST_RANGE, LATER_RANGE = (400_000, 2_500_000), (10_000, 400_000)  # least and most,
FIRST_PER_HALF = 100_000  # in a first placement also per half
SETTLED = 8  # and so many times fewer where the shortest way fits, because that is all but the optimum
FEW_DEVICES, MANY_DEVICES = 8, 25  # above them a first placement looks at fewer moves, for each takes longer
DESCENT = 40_000  # moves of one descent, at most
HARDER = 3  # times that overfilling gets four times dearer, as long as nothing fits
FIRST_FINALISTS, FINALISTS = 4, 6  # starts that are annealed at most,
FIRST_TURNS = 2  # and in a first placement the best of what comes of them once more,
WAYS_SHARE, MOST_WAYS = 10, 6  # half-layers looked at for ways: a part of the moves; ways that are starts at most
LEAST_PER_HALF = 5_000  # each with so many moves per half at least


class Found(NamedTuple):
    """One placement the search came to."""

    value: float  # the objective, seconds
    interval_s: float
    migration_s: float
    places: Ints


@dataclass(frozen=True)
class Aim:
    """What is minimised: the interval's cost, and what the tokens after it would cost."""

    later_tokens: float = 0.0  # that the expected latency after the interval counts for
    slack: float = 0.0  # the interval may cost this part more than the best for it; infinity: any


class Seeker:
    """One decision's search, on one `Problem`."""

    def __init__(self, problem: Problem, seed: int, effort: float = 1.0) -> None:
        self.problem = problem
        self.state: State = new_state(problem, seed)
        self.halves = len(problem.old)
        if problem.placed:
            wanted, (least, most) = LATER_EFFORT / self.halves**3, LATER_RANGE
        else:
            devices = problem.devices.shape[1]
            wanted, (least, most) = FIRST_EFFORT / self.halves**2 * FEW_DEVICES / max(FEW_DEVICES, devices), FIRST_RANGE
            most = min(most, FIRST_PER_HALF * self.halves)
            least = least * MANY_DEVICES // max(MANY_DEVICES, devices)
        self.effort = int(effort * min(most, max(least, wanted)))
        self.descent = max(1, min(DESCENT, self.effort // 4))
        self.tries = tries_of(self.effort, self.halves)
        self.many = self.effort > 5000 * self.halves  # moves enough for several starts
        self.weights = np.zeros(WEIGHTS)
        self.weights[CAP] = np.inf

    def seek(self, starts: list[Ints], aim: Aim) -> list[list[Found]]:
        """What was found, best first, in groups: for the whole run first, then for the interval. Empty: none fits."""
        problem = self.problem
        starts = [*([problem.old] if problem.placed else []), *starts]
        if not problem.placed or self.many:
            starts += first_starts(problem)
        found = self._interval(starts)
        if not found or aim.later_tokens <= 0:
            return [found]
        return [self._later(found, aim), found]

    def _interval(self, starts: list[Ints]) -> list[Found]:
        """Descend from every start; anneal from the best, each with a share of the effort."""
        self._weigh(starts[0])
        if not self.problem.placed:
            starts = self._first(starts)
        self.descent = max(1, min(DESCENT, self.effort // max(4, len(starts))))
        tried = [self._descend(start) for start in starts]
        for _ in range(HARDER):
            if any(np.isfinite(one.value) for one in tried):
                break
            self.weights[OVERFULL] *= 4
            tried = [self._descend(one.places) for one in tried]
        tried = _different(tried)
        fitting = [one for one in tried if np.isfinite(one.value)]
        if fitting:
            self._price(fitting[0].interval_s)
        effort, hot, count, turns = self.effort // 2, HOT, FINALISTS, 1
        if not self.problem.placed:
            effort, hot, count, turns = self.effort // FIRST_TURNS, FIRST_HOT, FIRST_FINALISTS, FIRST_TURNS
        count = max(1, min(count, effort // (LEAST_PER_HALF * self.halves)))
        if not self.problem.placed and count == 1:
            hot = ONLY_HOT
        for _ in range(turns):
            finalists = tried[:count]
            tried = _different([*tried, *(self._anneal(one, effort // len(finalists), hot) for one in finalists)])
        if self.problem.placed:
            tried.append(self._stay())
        return sorted((one for one in tried if np.isfinite(one.value)), key=lambda one: one.value)

    def _first(self, starts: list[Ints]) -> list[Ints]:
        """The starts of a first placement; the shortest way alone, and less effort, where it fits."""
        ways, settled = best_ways(self.problem, self.state, self.weights, self.effort // WAYS_SHARE, MOST_WAYS)
        if settled:
            self.effort //= SETTLED
            return ways
        starts = [*starts, *best_chains(self.problem, self.state, self.weights, self.tries), *ways]
        return list({start.tobytes(): start for start in starts}.values())

    def _later(self, found: list[Found], aim: Aim) -> list[Found]:
        """The same for the whole run, from what was found, as near the best interval as the aim demands."""
        weights, best = self.weights, found[0]
        weights[LATER_WEIGHT] = aim.later_tokens
        weights[CAP] = (1 + aim.slack) * best.interval_s
        weights[OVER_CAP] = CAP_WEIGHT
        weights[RUN_OVERFULL] = weights[OVERFULL] / 10
        better = [self._anneal(self._descend(best.places), self.effort // 4, COOL)]
        if self.problem.placed:
            better += [self._descend(self.problem.old), self._stay()]
        kept = [one for one in better if np.isfinite(one.value) and one.interval_s <= weights[CAP] * (1 + 1e-9)]
        return sorted(kept, key=lambda one: one.value)

    # --- one step ------------------------------------------------------------------------------------------------

    def _weigh(self, start: Ints) -> None:
        load(self.problem, self.state, start, True)
        judged(self.problem, self.state, self.weights)
        self._price(float(self.state.figures[INTERVAL]))

    def _price(self, interval_s: float) -> None:
        """Make overfilling as dear as an interval of this cost demands, and never cheaper than it was."""
        price = OVERFULL_WEIGHT * interval_s / self.problem.sizes[END].max()
        self.weights[OVERFULL] = max(self.weights[OVERFULL], price)

    def _descend(self, start: Ints) -> Found:
        later = bool(self.weights[LATER_WEIGHT] > 0)
        load(self.problem, self.state, start, later)
        value = search(self.problem, self.state, self.weights, self.descent, 0.0, 0.0, 1.0, later)
        return self._found(value)

    def _anneal(self, start: Found, effort: int, hot: float) -> Found:
        later = bool(self.weights[LATER_WEIGHT] > 0)
        unit = start.interval_s / self.halves
        load(self.problem, self.state, start.places, later)
        search(self.problem, self.state, self.weights, effort, hot * unit, COLD * unit, SOFT, later)
        return self._descend(self.state.place.copy())

    def _stay(self) -> Found:
        load(self.problem, self.state, self.problem.old, True)
        return self._found(judged(self.problem, self.state, self.weights))

    def _found(self, value: float) -> Found:
        figures = self.state.figures
        fits = figures[TOO_MANY] == 0
        return Found(
            value if fits else np.inf, float(figures[INTERVAL]), float(figures[MIGRATION]), self.state.place.copy()
        )


def _different(found: list[Found]) -> list[Found]:
    """Best first, and of those that came to the same one."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: one.value):
        if not any(np.array_equal(one.places, other.places) for other in kept):
            kept.append(one)
    return kept


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Compile, or load what was compiled before, so that no decision has to wait for it."""
    shape = ModelShape("warm-up", 1, 8, 1, 1, 8, 8, 8, 8)
    views = tuple(DeviceView(name, 2**11, 1e9, 1e9, 1e9) for name in "ab")  # so little that every start is looked for
    links = {view.name: LinkView(1e9, 1e9, 0.0, 0.0) for view in views}
    model = cost_model(Observation(shape, Partition(), "a", views, links, 1, 0, 4, 2))
    Seeker(make_problem(model, None, model), 0, 1e-3).seek([], Aim(1.0, 0.1))
