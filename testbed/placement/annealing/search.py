"""The search for a placement: descent from several starts, then simulated annealing, then the same for the whole run.

The effort is a count of moves and not a time, so every machine decides alike. What is found are placements as counts
and targets, best first; `counts_to_blocks` says which blocks they stand for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from testbed.placement.annealing import tuning
from testbed.placement.annealing.moves import descend_or_anneal
from testbed.placement.annealing.pipelines import best_pipelines, orders_of
from testbed.placement.annealing.problem import INTERVAL_END, Problem, make_problem
from testbed.placement.annealing.shortest_paths import shortest_paths
from testbed.placement.annealing.starts import first_starts
from testbed.placement.annealing.state import (
    CAP,
    INTERVAL,
    LATER_WEIGHT,
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
from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.machine_code import smallest_observation
from testbed.placement.cost.model import cost_model


class CountedPlacement(NamedTuple):
    """A placement that the search came to, as counts and targets."""

    value: float  # the objective, seconds; inf: it does not fit
    interval_s: float
    places: Ints


@dataclass(frozen=True)
class Objective:
    """What is minimised: the interval's cost, and what the tokens after it would cost."""

    later_tokens: float = 0.0  # how many tokens the expected latency after the interval counts for
    slack: float = 0.0  # the interval may cost this part more than the best for it; infinity: any


class SearchResult(NamedTuple):
    """What a search found."""

    placements: list[CountedPlacement]  # those for the whole run first, then those for the interval; each best first
    run_overfull_s: float  # seconds that a byte too many at the run's end counted for


def search(
    problem: Problem,
    state: State,
    objective: Objective,
    effort: float = 1.0,
    fallback: Callable[[], Ints] | None = None,
    devices: int | None = None,
) -> SearchResult:
    """The placements that fit, found by looking at `effort` times the usual number of moves; may be none.

    `devices` is the number that the decision chooses from, where the problem has only some of them.
    `state` is working space and the source of random numbers. If nothing fits, the search goes on once more: with the
    places that `fallback` returns among its starts, and with overfilling as dear as it has become.
    """
    steps = _Steps(problem, state, _no_weights())
    budget = budget_for(problem, effort, devices or problem.devices.shape[1])
    present = [problem.old] if problem.placed else []
    simple = list(first_starts(problem)) if not problem.placed or budget.several_starts else []
    found, budget = _for_interval(steps, [*present, *simple], budget)
    if not found and fallback is not None:
        found, budget = _for_interval(steps, [*present, fallback(), *simple], budget)
    run: list[CountedPlacement] = []
    if found and objective.later_tokens > 0:
        run = _for_run(steps, found[0], objective, budget)
    return SearchResult([*run, *found], float(steps.weights[RUN_OVERFULL]))


class Budget(NamedTuple):
    """How much one decision looks at."""

    moves: int
    descent: int  # moves of one descent, at most
    orders: int  # of devices, in one local search over them
    several_starts: bool  # whether moves suffice for other starts than the present placement


def budget_for(problem: Problem, effort: float, devices: int) -> Budget:
    """The budget for a problem of this size and so many devices, `effort` times the usual one."""
    halves = len(problem.old)
    if problem.placed:
        wanted, (least, most) = tuning.LATER_EFFORT / halves**3, tuning.LATER_MOVES
    else:
        few, many = tuning.FEW_DEVICES, tuning.MANY_DEVICES
        wanted, (least, most) = tuning.FIRST_EFFORT / halves**2 * few / max(few, devices), tuning.FIRST_MOVES
        most = min(most, tuning.FIRST_MOVES_PER_HALF * halves)
        least = least * many // max(many, devices)
    moves = int(effort * min(most, max(least, wanted)))
    return Budget(moves, tuning.DESCENT_MOVES, orders_of(moves, halves), moves > tuning.MOVES_PER_HALF * halves)


def _for_interval(steps: _Steps, starts: list[Ints], budget: Budget) -> tuple[list[CountedPlacement], Budget]:
    """Descend from every start and anneal the best; returns what fits, best first, and the budget that was left."""
    placed = steps.problem.placed
    steps.price_from(starts[0])
    if not placed:
        starts, budget = _more_starts(steps, starts, budget)
    descent = budget.moves // max(tuning.DESCENT_SHARE, len(starts))
    budget = budget._replace(descent=max(1, min(tuning.DESCENT_MOVES, descent)))
    tried = [steps.descend(start, budget.descent) for start in starts]
    for _ in range(tuning.HARDER_ROUNDS):
        if any(np.isfinite(one.value) for one in tried):
            break
        steps.weights[OVERFULL] *= tuning.HARDER
        tried = [steps.descend(one.places, budget.descent) for one in tried]
    tried = _distinct(tried)
    fitting = [one for one in tried if np.isfinite(one.value)]
    if fitting:
        steps.price(fitting[0].interval_s)
    moves, hot, finalists, rounds = budget.moves // tuning.LATER_SHARE, tuning.HOT, tuning.FINALISTS, 1
    if not placed:
        rounds = tuning.FIRST_ROUNDS
        moves, hot, finalists = budget.moves // rounds, tuning.FIRST_HOT, tuning.FIRST_FINALISTS
    count = max(1, min(finalists, moves // (tuning.MOVES_PER_HALF * steps.halves)))
    if not placed and count == 1:
        hot = tuning.ONLY_HOT
    for _ in range(rounds):
        best = tried[:count]
        tried = _distinct([*tried, *(steps.anneal(one, moves // len(best), hot, budget.descent) for one in best)])
    if placed:
        tried.append(steps.stay())
    return _fitting(tried), budget


def _more_starts(steps: _Steps, starts: list[Ints], budget: Budget) -> tuple[list[Ints], Budget]:
    """The starts of a first placement: the shortest path alone, with fewer moves, where it settles the matter."""
    p, s, weights = steps.problem, steps.state, steps.weights
    paths, settled = shortest_paths(p, s, weights, budget.moves // tuning.SHORTEST_PATHS_SHARE)
    if settled:
        return paths, budget._replace(moves=budget.moves // tuning.SETTLED_SHARE)
    starts = [*starts, *best_pipelines(p, s, weights, budget.orders), *paths]
    return list({start.tobytes(): start for start in starts}.values()), budget


def _for_run(steps: _Steps, best: CountedPlacement, objective: Objective, budget: Budget) -> list[CountedPlacement]:
    """Search for the whole run, from the best placement for the interval and as near it as the objective demands."""
    weights = steps.weights
    weights[LATER_WEIGHT] = objective.later_tokens
    weights[CAP] = (1 + objective.slack) * best.interval_s
    weights[OVER_CAP] = tuning.CAP_WEIGHT
    weights[RUN_OVERFULL] = weights[OVERFULL] / tuning.RUN_WEIGHT_SHARE
    moves = budget.moves // tuning.RUN_SHARE
    found = [steps.anneal(steps.descend(best.places, budget.descent), moves, tuning.RUN_HOT, budget.descent)]
    if steps.problem.placed:
        found += [steps.descend(steps.problem.old, budget.descent), steps.stay()]
    return [one for one in _fitting(found) if one.interval_s <= weights[CAP] * (1 + tuning.ROUNDING)]


def _no_weights() -> Floats:
    weights = np.zeros(WEIGHTS)
    weights[CAP] = np.inf
    return weights


@dataclass(frozen=True)
class _Steps:
    """The single steps of one search, at weights that the search sets."""

    problem: Problem
    state: State
    weights: Floats

    @property
    def halves(self) -> int:
        """How many halves a token passes."""
        return len(self.problem.old)

    def price_from(self, start: Ints) -> None:
        """Price overfilling by what an interval costs at a start."""
        load(self.problem, self.state, start, True)
        judged(self.problem, self.state, self.weights)
        self.price(float(self.state.figures[INTERVAL]))

    def price(self, interval_s: float) -> None:
        """Make overfilling as dear as an interval of this cost demands, and never cheaper than it was."""
        price = tuning.OVERFULL_WEIGHT * interval_s / self.problem.sizes[INTERVAL_END].max()
        self.weights[OVERFULL] = max(self.weights[OVERFULL], price)

    def descend(self, start: Ints, moves: int) -> CountedPlacement:
        """The local optimum to which a descent leads."""
        load(self.problem, self.state, start, self._later)
        return self._found(descend_or_anneal(self.problem, self.state, self.weights, moves, 0.0, 0.0, 1.0, self._later))

    def anneal(self, start: CountedPlacement, moves: int, hot: float, descent: int) -> CountedPlacement:
        """The local optimum to which annealing leads, at temperatures in units of the interval's cost per half."""
        unit = start.interval_s / self.halves
        load(self.problem, self.state, start.places, self._later)
        descend_or_anneal(
            self.problem,
            self.state,
            self.weights,
            moves,
            hot * unit,
            tuning.COLD * unit,
            tuning.SOFT,
            self._later,
        )
        return self.descend(self.state.places.copy(), descent)

    def stay(self) -> CountedPlacement:
        """The present placement."""
        load(self.problem, self.state, self.problem.old, True)
        return self._found(judged(self.problem, self.state, self.weights))

    @property
    def _later(self) -> bool:
        return bool(self.weights[LATER_WEIGHT] > 0)

    def _found(self, value: float) -> CountedPlacement:
        figures = self.state.figures
        fits = figures[TOO_MANY] == 0
        return CountedPlacement(value if fits else np.inf, float(figures[INTERVAL]), self.state.places.copy())


def _fitting(found: list[CountedPlacement]) -> list[CountedPlacement]:
    """Those that fit, best first."""
    return sorted((one for one in found if np.isfinite(one.value)), key=lambda one: one.value)


def _distinct(found: list[CountedPlacement]) -> list[CountedPlacement]:
    """One of each placement, best first."""
    kept: list[CountedPlacement] = []
    for one in sorted(found, key=lambda one: one.value):
        if not any(np.array_equal(one.places, other.places) for other in kept):
            kept.append(one)
    return kept


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Compile, or load what was compiled before, so that no decision has to wait for it."""
    model = cost_model(smallest_observation())
    problem = make_problem(model, None, model)
    search(problem, new_state(problem), Objective(1.0, 0.1), 1e-3)
