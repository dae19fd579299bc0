"""The optimum of one decision: the paths to move over, the bound, branch and bound, and the placement it stands for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from testbed.errors import ConfigError
from testbed.placement.array_types import Flags
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
from testbed.placement.exact.branch_and_bound import Incumbent, branch_and_bound, options_within
from testbed.placement.exact.classes import PlacementClass, in_class
from testbed.placement.exact.limits import DECISION_WIDTHS, LEAST_WIDTH_UNIT_S, MEMORY_EXCESS, PROVED
from testbed.placement.exact.options import movable, unit_devices
from testbed.placement.exact.program import Program, Stage, build, path_delays, restricted
from testbed.placement.exact.relaxation import best_bound
from testbed.placement.observation import Observation
from testbed.placement.plan import make_plan
from testbed.placement.tree import align


@dataclass(frozen=True)
class Solution:
    """A decision and what is known of it. Seconds are of the interval, the LM head left out."""

    placement: Placement | None  # None: none was found
    cost_s: float
    bound_s: float  # no placement of the class costs less; inf: there is none
    seconds: float  # that it took

    @property
    def gap(self) -> float:
        """How much more it costs than the bound, as a fraction of the bound; nan when nothing was found."""
        return self.cost_s / self.bound_s - 1 if self.placement is not None else math.nan

    @property
    def proved(self) -> bool:
        """Whether it is the optimum."""
        return self.placement is not None and self.gap <= PROVED


def decision_cost(observation: Observation, old: Placement | None, new: Placement) -> float:
    """`interval_cost` without the LM head, which is the same for all placements; `Draft.cost` is the same figure."""
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
            "policy exact knows star topologies only, and this network has routes or a shared medium: "
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
        """Find the best placement, and the bound that tells how good it is."""
        program = build(self.observation, self.old, self.klass)
        for start in starts:
            self._offer(start)
        if self.old is None:
            outcome = self._best_solution(program, 0.0)
            if outcome.incumbent is not None:
                self._realise(outcome, np.ones((program.devices, program.devices), bool))
            bound = outcome.bound_s
        else:
            if in_class(self.observation, self.old, self.klass):
                self._offer(self.old)
            bound = self._over_shorter_paths(program)
        return Solution(self.best, self.best_s, min(bound, self.best_s), self.deadline.elapsed_s)

    def _over_shorter_paths(self, program: Program) -> float:
        """Search over paths up to a delay, for ever smaller delays: the longest path in use adds its delay to the cost.

        Shorter paths allow no further solutions. So a search that finds nothing ends them all, and one that finds
        something has settled every delay from the one it uses on.
        """
        delays = path_delays(self.observation)
        steps = np.unique(delays[~np.eye(program.devices, dtype=bool)])[::-1]
        bound, longest = math.inf, math.inf
        for delay_s in map(float, steps):
            if delay_s >= longest:
                continue
            allowed = delays <= delay_s
            program = restricted(program, allowed)
            outcome = self._best_solution(program, MIGRATION_HANDSHAKE_S + float(steps[-1]))
            if outcome.incumbent is None:
                return min(bound, outcome.bound_s + MIGRATION_HANDSHAKE_S + float(steps[-1]))
            longest = next(float(least) for least in steps[::-1] if _matches(outcome, delays <= least))
            self._realise(outcome, delays <= longest)
            charged_s = float(steps[-1]) if outcome.cut_short else longest
            bound = min(bound, outcome.bound_s + MIGRATION_HANDSHAKE_S + charged_s)
            if outcome.cut_short:
                return bound
        return bound

    def _best_solution(self, program: Program, fixed_s: float) -> _Outcome:
        """The best solution that can be better than the best placement when it costs `fixed_s` more."""
        bound = best_bound(program)
        if not math.isfinite(bound.seconds) or (bound.overused and not _can_fit(program)):
            return _Outcome(program, None, math.inf)
        goal_s = self.best_s - fixed_s
        for width in (*DECISION_WIDTHS, math.inf):
            cutoff_s = min(goal_s, bound.seconds + width * max(abs(bound.seconds), LEAST_WIDTH_UNIT_S))
            near = options_within(program, bound, cutoff_s)
            incumbent, least_s = branch_and_bound(near, bound, cutoff_s, self.deadline)
            cut_short = least_s < (cutoff_s if incumbent is None else incumbent.seconds)
            if incumbent is not None or cut_short or cutoff_s == goal_s:
                return _Outcome(near, incumbent, least_s, cut_short)
        raise AssertionError("the last width is infinite")

    def _realise(self, outcome: _Outcome, allowed: Flags) -> None:
        """Offer the placement of a solution. Where shards are only counted, the units that move and aligned units are
        both offered."""
        for aligned in (False, True):
            devices: dict[Block, str] = {}
            for stage, hub, option in outcome.parts():
                units = unit_devices(stage.options, option, stage.old[:-1] if stage.old else None, allowed)
                if units is None or (aligned and not stage.options.by_unit):
                    units = [0] * (len(stage.blocks) - 1)
                    for device, indices in enumerate(align(stage.options.counts[option].tolist())):
                        for index in indices:
                            units[index] = device
                names = [self.model.names[device] for device in (*units, hub)]
                devices.update(zip(stage.blocks, names, strict=True))
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
class _Outcome:
    """What one search found: its program, the best solution, and a bound on all solutions."""

    program: Program
    incumbent: Incumbent | None
    bound_s: float
    cut_short: bool = False  # whether it ended before all was looked at

    def parts(self) -> Iterator[tuple[Stage, int, int]]:
        """Each stage with its hub and its option in the solution found."""
        assert self.incumbent is not None
        yield from zip(self.program.stages, self.incumbent.hubs, self.incumbent.options, strict=True)


def _matches(outcome: _Outcome, allowed: Flags) -> bool:
    """Whether the solution found can be carried out over allowed paths alone."""
    for stage, hub, option in outcome.parts():
        if stage.old is None:
            continue
        one = stage.options.take(np.array([option]))
        at = stage.old[-1]
        if not movable(one, stage.old[:-1], allowed).all() or (hub != at and not allowed[at, hub]):
            return False
    return True


def _can_fit(program: Program) -> bool:
    """Whether limits can be kept at all by divisible solutions, judged by a bound that only counts excess of memory.

    Every token's path costs one second in that programme, which gives its figures their size.
    """
    free = [_memory_alone(stage, program.memories) for stage in program.stages]
    seconds = best_bound(replace(program, stages=tuple(free), return_s=np.ones(program.devices))).seconds
    return seconds < 1 + MEMORY_EXCESS


def _memory_alone(stage: Stage, memories: int) -> Stage:
    """The stage when no option takes any time, on links and storage neither."""
    use, hub_use = stage.use.copy(), stage.hub_use.copy()
    use[:, memories:] = 0.0
    hub_use[:, memories:] = 0.0
    seconds = np.where(np.isfinite(stage.seconds), 0.0, np.inf)
    return replace(stage, seconds=seconds, use=use, hub_use=hub_use)
