"""Branch and bound: every sequence of hubs that a bound leaves, and for each the best options of its stages.

Sequences are kept as one array, the one with the least bound is taken first. Its own best prices raise the bounds of
the others too. If it may still be the best, a dynamic programme over its stages finds its best options. When no
sequence is left, the incumbent is the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.placement.array_types import Flags, Floats, Ints
from testbed.placement.deadline import Deadline
from testbed.placement.exact.limits import (
    MERGED_FROM,
    PAIRS,
    PARTIAL_SOLUTIONS,
    REACHED,
    SEQUENCE_WIDTHS,
    SEQUENCES,
)
from testbed.placement.exact.program import Program
from testbed.placement.exact.relaxation import Bound, bound_at, prices_of_sequence


@dataclass(frozen=True)
class Incumbent:
    """The best solution so far: the hubs after the source, and each stage's option."""

    seconds: float
    hubs: tuple[int, ...]
    options: tuple[int, ...]


class _TooMany(Exception):
    """A sequence has more partial solutions than can be kept."""


def options_within(program: Program, bound: Bound, cutoff_s: float) -> Program:
    """The program with only those options that a solution of at most `cutoff_s` can use."""
    credit = float(program.limits @ bound.prices[: program.memories])
    before = np.full(program.devices, np.inf)
    before[program.model.source] = 0.0
    stages = []
    for number, stage in enumerate(program.stages):
        priced = stage.priced(bound.prices)
        through = before[:, None, None] + priced + bound.to_go[number + 1][None, :, None] - credit
        stages.append(stage.take((through <= cutoff_s).any(axis=(0, 1))))
        before = (before[:, None] + bound.cheapest[number]).min(0)
    return Program(**{**program.__dict__, "stages": tuple(stages)})


def branch_and_bound(
    program: Program, bound: Bound, cutoff_s: float, deadline: Deadline
) -> tuple[Incumbent | None, float]:
    """(the best solution that costs less than `cutoff_s`, or None; what any solution costs at least).

    The second figure is the first one's seconds, or `cutoff_s`, unless the deadline passed or there was too much to
    look at.
    """
    hubs, dropped_s = _sequences(program, bound, cutoff_s)
    return _OpenSequences(program, hubs, bound, cutoff_s, dropped_s).run(deadline)


def _sequences(program: Program, bound: Bound, cutoff_s: float) -> tuple[Ints, float]:
    """((sequences, stages + 1): hubs of paths that fit and whose bound is at most `cutoff_s`; the bound of others).

    Where there are too many, those of least bound are kept at each stage.
    """
    credit = float(program.limits @ bound.prices[: program.memories])
    memories, devices = program.memories, program.devices
    hubs = np.array([[program.model.source]], np.int8)
    cost, used, dropped_s = np.zeros(1), np.zeros((1, memories)), np.inf
    for number, (stage, table) in enumerate(zip(program.stages, bound.cheapest, strict=True)):
        last = hubs[:, -1].astype(np.int64)
        reached = cost[:, None] + table[last]
        least = reached + bound.to_go[number + 1][None, :] - credit
        good = least <= cutoff_s
        if program.same_hub and number:
            good &= last[:, None] == np.arange(devices)[None, :]
        here, there = np.nonzero(good)
        if len(here) > SEQUENCES:
            order = np.argsort(least[here, there], kind="stable")
            dropped_s = min(dropped_s, float(least[here[order[SEQUENCES]], there[order[SEQUENCES]]]))
            here, there = here[order[:SEQUENCES]], there[order[:SEQUENCES]]
        using = used[here] + stage.hub_use[there, :memories]
        fits = (using <= program.limits).all(1)
        here, there, used = here[fits], there[fits], using[fits]
        cost = reached[here, there]
        hubs = np.hstack([hubs[here], there[:, None].astype(np.int8)])
    return hubs.astype(np.int64), dropped_s


class _OpenSequences:
    """The open nodes of the search, one per sequence of hubs, and the incumbent."""

    def __init__(self, program: Program, hubs: Ints, bound: Bound, cutoff_s: float, left_s: float) -> None:
        self.program = program
        self.left_s = left_s  # least bound of what is not looked at
        self.best_s = cutoff_s
        self.incumbent: Incumbent | None = None
        self.hubs = hubs
        self.unusable = self._unusable(hubs)
        self.least_s = self._bounds(bound)
        self.priced = np.zeros(len(hubs), bool)
        self.prices = [bound.prices]
        self.best_prices = np.zeros(len(hubs), np.int64)  # which of `prices` gives each sequence its bound
        self._keep(self.least_s < self._goal)

    @property
    def _goal(self) -> float:
        """A sequence whose bound is not below this cannot be better than the incumbent."""
        return self.best_s - REACHED * abs(self.best_s) if np.isfinite(self.best_s) else np.inf

    def run(self, deadline: Deadline) -> tuple[Incumbent | None, float]:
        """Work through the sequences, least bound first."""
        while len(self.hubs):
            if deadline.passed():
                return self.incumbent, min(self.left_s, float(self.least_s.min()))
            first = int(self.least_s.argmin())
            if self.priced[first]:
                try:
                    self._solve(first)
                except _TooMany:
                    self.left_s = min(self.left_s, float(self.least_s[first]))
                self.least_s[first] = np.inf
            else:
                self._price(first)
            self._keep(self.least_s < self._goal)
        return self.incumbent, min(self.left_s, self.best_s)

    def _keep(self, which: Flags) -> None:
        if not which.all():
            self.hubs, self.unusable, self.least_s = self.hubs[which], self.unusable[which], self.least_s[which]
            self.priced, self.best_prices = self.priced[which], self.best_prices[which]

    def _unusable(self, hubs: Ints) -> Floats:
        """(sequences, memories): bytes beside the hubs' blocks that whole units leave unused."""
        program = self.program
        used = np.zeros((len(hubs), program.memories))
        for number, stage in enumerate(program.stages):
            used += stage.hub_use[hubs[:, number + 1], : program.memories]
        size = np.where(program.unit_bytes > 0, program.unit_bytes, 1.0)
        return np.where(program.unit_bytes > 0, np.mod(program.limits - used, size), 0.0)

    def _bounds(self, bound: Bound) -> Floats:
        program, prices = self.program, bound.prices[: self.program.memories]
        least = program.return_s[self.hubs[:, -1]] - float(program.limits @ prices) + self.unusable @ prices
        for number, table in enumerate(bound.cheapest):
            least = least + table[self.hubs[:, number], self.hubs[:, number + 1]]
        return np.asarray(least)

    def _price(self, number: int) -> None:
        """Find the best prices of one sequence, and raise every bound that is higher at these prices."""
        before = self.prices[self.best_prices[number]]
        within_s = self.best_s - self.least_s[number]
        prices = prices_of_sequence(self.program, self.hubs[number], before, within_s)
        if prices is None:
            self.least_s[number] = np.inf
            return
        least = self._bounds(bound_at(self.program, prices))
        better = least > self.least_s
        better[number] |= least[number] >= self.least_s[number]
        self.prices.append(prices)
        self.best_prices[better] = len(self.prices) - 1
        self.least_s = np.maximum(self.least_s, least)
        self.priced[number] = True

    def _solve(self, number: int) -> None:
        """Find the best options for one sequence of hubs, if they cost less than the incumbent."""
        program, hubs = self.program, self.hubs[number]
        prices = self.prices[self.best_prices[number]]
        least_s = float(self.least_s[number])
        for width in (*SEQUENCE_WIDTHS, np.inf):
            within_s = min(self.best_s - least_s, width * abs(least_s))
            partial = _PartialSolutions(program, hubs)
            for position, stage in enumerate(program.stages):
                seconds = stage.seconds[hubs[position], hubs[position + 1]]
                priced = seconds + stage.use @ prices
                partial.extend(seconds, priced - priced.min(initial=np.inf), stage.use, within_s)
            busiest_s = partial.used[:, program.memories :].max(1, initial=0.0)
            seconds = partial.seconds + busiest_s + program.return_s[hubs[-1]]
            if len(seconds) and seconds.min() < self.best_s:
                least = int(seconds.argmin())
                self.best_s = float(seconds[least])
                self.incumbent = Incumbent(self.best_s, tuple(map(int, hubs[1:])), partial.options(least))
            if self.best_s <= least_s + within_s:
                return


class _PartialSolutions:
    """The dynamic programme over one sequence's stages: the options so far, what they cost and what they use."""

    def __init__(self, program: Program, hubs: Ints) -> None:
        self.memories = program.memories
        fixed = np.zeros(program.resources)
        for stage, hub in zip(program.stages, hubs[1:], strict=True):
            fixed += stage.hub_use[hub]
        self.limits = program.limits - fixed[: self.memories]
        self.seconds = np.zeros(1)
        self.over = np.zeros(1)  # priced seconds over the least
        self.used = np.zeros((1, program.resources))
        self.used[0, program.memories :] = fixed[program.memories :]
        self._from: list[Ints] = []
        self._option: list[Ints] = []

    def extend(self, seconds: Floats, over: Floats, use: Floats, within_s: float) -> None:
        """Append one more stage: each of its options to each partial solution that stays within bound and limits."""
        near = np.flatnonzero(over <= within_s)
        if len(self.over) * len(near) > PAIRS:
            raise _TooMany
        before, option = np.nonzero(self.over[:, None] + over[near][None, :] <= within_s)
        option = near[option]
        if len(before) > PARTIAL_SOLUTIONS:
            raise _TooMany
        used = self.used[before] + use[option]
        fits = (used[:, : self.memories] <= self.limits).all(1)
        before, option, used = before[fits], option[fits], used[fits]
        total = self.seconds[before] + seconds[option]
        if len(before) > MERGED_FROM:
            kept = _cheapest(used, total)
            before, option, used, total = before[kept], option[kept], used[kept], total[kept]
        self.over = self.over[before] + over[option]
        self.seconds, self.used = total, used
        self._from.append(before)
        self._option.append(option)

    def options(self, number: int) -> tuple[int, ...]:
        """The option of each stage in one complete solution."""
        found: list[int] = []
        for before, option in zip(self._from[::-1], self._option[::-1], strict=True):
            found.append(int(option[number]))
            number = int(before[number])
        return tuple(found[::-1])


def _cheapest(used: Floats, seconds: Floats) -> Ints:
    """Of the rows that use the same, the one of least seconds."""
    order = np.lexsort((seconds, *used.T))
    same = (used[order][1:] == used[order][:-1]).all(1)
    return np.asarray(order[np.concatenate([[True], ~same])])
