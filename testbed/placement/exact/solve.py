"""The optimum of one decision: paths to move over, bounds, search, and the placement that carries it out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, Placement
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import (
    MIGRATION_HANDSHAKE_S,
    CostModel,
    cached_length,
    cost_model,
    migration_delay,
)
from testbed.placement.deadline import Deadline
from testbed.placement.exact.branch_and_bound import Found, near_ways, search
from testbed.placement.exact.classes import PlacementClass, in_class
from testbed.placement.exact.options import Flags, assign, movable
from testbed.placement.exact.program import Half, Problem, build, path_delays, restricted
from testbed.placement.exact.relaxation import best_prices
from testbed.placement.observation import Observation
from testbed.placement.plan import make_plan
from testbed.placement.tree import align

# How far over the bound solutions are looked for, one after another.
WIDTHS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.6, 1.5, 5.0)
PROVED = 1e-9  # relative distance of cost and bound at which they are the same
EXCESS = 1e-6  # seconds over one that a bound must reach to show that limits cannot be kept; far above its rounding


@dataclass(frozen=True)
class Solution:
    """A decision and what is known of it. Seconds are of the interval, the LM head left out."""

    placement: Placement | None  # None: none was found
    cost_s: float
    bound_s: float  # no placement of the class costs less; inf: there is none
    seconds: float  # that it took

    @property
    def gap(self) -> float:
        """How much more than the bound it costs, as a fraction; nan when nothing was found."""
        return self.cost_s / self.bound_s - 1 if self.placement is not None else math.nan

    @property
    def proved(self) -> bool:
        """Whether it is the optimum."""
        return self.placement is not None and self.gap <= PROVED


def decision_cost(observation: Observation, old: Placement | None, new: Placement) -> float:
    """`interval_cost` without the LM head, which is the same for all placements: what `Draft.cost` is too."""
    plan, model = make_plan(observation, new), cost_model(observation)
    first, last = (model.step_seconds(plan, length, 1, False, True) for length in model.lengths)
    delay = migration_delay(observation, old, new, cached_length(observation))
    return delay + observation.interval_tokens * (first + last) / 2


def optimum(
    observation: Observation,
    old: Placement | None,
    klass: PlacementClass = "any",
    limit_s: float | None = None,
    starts: Iterable[Placement] = (),
) -> Solution:
    """The best placement of a class for the coming interval, or the best found in `limit_s` seconds.

    `starts` are placements of that class to begin with, where any is known. Raises ConfigError where the network is
    not a star, or where the LM head is cut.
    """
    if observation.routes is not None:
        raise ConfigError(
            "policy exact knows star topologies only, and this network has routes: "
            "use a topology of shape star, or another policy"
        )
    if observation.partition.vocab_shards > 1:
        raise ConfigError(
            "policy exact leaves the LM head out and places no shards of it, "
            f"and partition.vocab_shards is {observation.partition.vocab_shards}: set it to 1, or use another policy"
        )
    return _Decision(observation, old, klass, Deadline(limit_s)).solve(starts)


class _Decision:
    """The best placement so far, and the searches that better it."""

    def __init__(
        self, observation: Observation, old: Placement | None, klass: PlacementClass, deadline: Deadline
    ) -> None:
        self.observation, self.old = observation, old
        self.klass = klass
        self.deadline = deadline
        self.model: CostModel = cost_model(observation)
        self.best: Placement | None = None
        self.best_s = math.inf

    def solve(self, starts: Iterable[Placement]) -> Solution:
        """The best, and the bound that tells how good it is."""
        problem = build(self.observation, self.old, self.klass)
        for start in starts:
            self._offer(start)
        if self.old is None:
            step = self._search(problem, 0.0)
            if step.found is not None:
                self._realise(step, np.ones((problem.devices, problem.devices), bool))
            bound = step.bound_s
        else:
            if in_class(self.observation, self.old, self.klass):
                self._offer(self.old)
            bound = self._over_shorter_paths(problem)
        return Solution(self.best, self.best_s, min(bound, self.best_s), self.deadline.elapsed_s)

    def _over_shorter_paths(self, problem: Problem) -> float:
        """The longest path in use adds its delay: the best over paths up to a delay, for ever smaller ones.

        Over shorter paths no choice is added, so a search that finds nothing ends them all, and one that finds
        something has settled every delay from the one it uses on.
        """
        delays = path_delays(self.observation)
        steps = np.unique(delays[~np.eye(problem.devices, dtype=bool)])[::-1]
        bound, longest = math.inf, math.inf
        for delay_s in map(float, steps):
            if delay_s >= longest:
                continue
            allowed = delays <= delay_s
            problem = restricted(problem, allowed)
            step = self._search(problem, MIGRATION_HANDSHAKE_S + float(steps[-1]))
            if step.found is None:
                return min(bound, step.bound_s + MIGRATION_HANDSHAKE_S + float(steps[-1]))
            longest = next(float(least) for least in steps[::-1] if _matches(step, delays <= least))
            self._realise(step, delays <= longest)
            bound = min(bound, step.bound_s + MIGRATION_HANDSHAKE_S + (float(steps[-1]) if step.cut else longest))
            if step.cut:
                return bound
        return bound

    def _search(self, problem: Problem, fixed_s: float) -> _Step:
        """The best solution of the problem that can be better than the best placement, if it adds `fixed_s`."""
        bound = best_prices(problem)
        if not math.isfinite(bound.seconds) or (bound.overused and not _can_fit(problem)):
            return _Step(problem, None, math.inf)
        goal_s = self.best_s - fixed_s
        for width in (*WIDTHS, math.inf):
            cutoff_s = min(goal_s, bound.seconds + width * max(abs(bound.seconds), 1e-6))
            near = near_ways(problem, bound, cutoff_s)
            found, least_s = search(near, bound, cutoff_s, self.deadline)
            cut = least_s < (cutoff_s if found is None else found.seconds)
            if found is not None or cut or cutoff_s == goal_s:
                return _Step(near, found, least_s, cut)
        raise AssertionError("the last width is infinite")

    def _realise(self, step: _Step, allowed: Flags) -> None:
        """Offer the placement of a solution; where shards are only counted, the better of two ways to deal them."""
        for aligned in (False, True):
            devices: dict[Block, str] = {}
            for half, hub, way in step.parts():
                units = assign(half.options, way, half.old[:-1] if half.old else None, allowed)
                if units is None or (aligned and not half.options.dealt.shape[1]):
                    units = [0] * (len(half.blocks) - 1)
                    for device, indices in enumerate(align(half.options.counts[way].tolist())):
                        for index in indices:
                            units[index] = device
                names = [self.model.names[device] for device in (*units, hub)]
                devices.update(zip(half.blocks, names, strict=True))
            self._offer(Placement(dict(sorted(devices.items()))))
            if self.old is None or not any(kind.partial for kind in self.model.halves):
                return

    def _offer(self, placement: Placement) -> None:
        """Keep a placement if it can be carried out and is better than the best so far."""
        if shortages(self.observation, self.old, placement):
            return
        cost_s = decision_cost(self.observation, self.old, placement)
        if cost_s < self.best_s:
            unmoved = self.old is not None and not self.old.moves_to(placement)
            epoch = self.old.epoch + 1 if self.old is not None else 0
            self.best = self.old if unmoved else replace(placement, epoch=epoch)
            self.best_s = cost_s


@dataclass(frozen=True)
class _Step:
    """What one search said: the ways it looked at, the best it found, and what none can cost less than."""

    problem: Problem
    found: Found | None
    bound_s: float
    cut: bool = False  # whether it ended before all was looked at

    def parts(self) -> Iterator[tuple[Half, int, int]]:
        """Each half with its hub and its way in the solution found."""
        assert self.found is not None
        yield from zip(self.problem.halves, self.found.hubs, self.found.ways, strict=True)


def _matches(step: _Step, allowed: Flags) -> bool:
    """Whether the solution found can be carried out over allowed paths alone."""
    for half, hub, way in step.parts():
        if half.old is None:
            continue
        one = half.options.take(np.array([way]))
        at = half.old[-1]
        if not movable(one, half.old[:-1], allowed).all() or (hub != at and not allowed[at, hub]):
            return False
    return True


def _can_fit(problem: Problem) -> bool:
    """Whether limits can be kept at all, if solutions were divisible: what the linear programme that only counts
    excess of memory costs. Every token's way costs a second in it, which gives its figures their size.
    """
    free = [_memory_alone(half, problem.memories) for half in problem.halves]
    seconds = best_prices(replace(problem, halves=tuple(free), home=np.ones(problem.devices))).seconds
    return seconds < 1 + EXCESS


def _memory_alone(half: Half, memories: int) -> Half:
    """The half when no way takes any time, on links and storage neither."""
    use, hub_use = half.use.copy(), half.hub_use.copy()
    use[:, memories:] = 0.0
    hub_use[:, memories:] = 0.0
    seconds = np.where(np.isfinite(half.seconds), 0.0, np.inf)
    return replace(half, seconds=seconds, use=use, hub_use=hub_use)
