"""The search: every sequence of hubs that a bound leaves, and for each the best ways of its halves.

Sequences are kept as one array. The one with the least bound comes first: its own best prices raise the bounds of
all others too, and if it still may be best, its ways are found by a dynamic programme over its halves that keeps
what each set of ways so far costs and uses. When no sequence is left, the best found is the best there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.placement.deadline import Deadline
from testbed.placement.exact.options import Flags, Ints
from testbed.placement.exact.program import Floats, Problem
from testbed.placement.exact.relaxation import Bound, bound_at, prices_of_sequence

SEQUENCES = 500_000  # of hubs that are listed, at most: those of least bound
STATES = 4_000_000  # more partial solutions than these are not kept for one sequence
MERGE = 500  # from so many partial solutions on, those that use the same are merged
WIDTHS = (0.002, 0.01, 0.03, 0.1, 0.3, 1.0)  # how far over its bound a sequence's best is looked for, one after another
SLACK = 1e-10  # relative: bounds this close to the best found are taken to reach it


@dataclass(frozen=True)
class Found:
    """The best solution found: hubs after the source, and each half's way."""

    seconds: float
    hubs: tuple[int, ...]
    ways: tuple[int, ...]


class _TooMany(Exception):
    """A sequence has more partial solutions than can be kept."""


def near_ways(problem: Problem, bound: Bound, cutoff_s: float) -> Problem:
    """The problem with the ways alone that a solution of at most `cutoff_s` can use."""
    credit = float(problem.limits @ bound.prices[: problem.memories])
    before = np.full(problem.devices, np.inf)
    before[problem.model.source] = 0.0
    halves = []
    for stage, half in enumerate(problem.halves):
        priced = half.priced(bound.prices)
        through = before[:, None, None] + priced + bound.ahead[stage + 1][None, :, None] - credit
        halves.append(half.take((through <= cutoff_s).any(axis=(0, 1))))
        before = (before[:, None] + bound.tables[stage]).min(0)
    return Problem(**{**problem.__dict__, "halves": tuple(halves)})


def search(problem: Problem, bound: Bound, cutoff_s: float, deadline: Deadline) -> tuple[Found | None, float]:
    """(the best solution that costs less than `cutoff_s`, or None; what any solution costs at least).

    The second figure is the first one's seconds, or `cutoff_s`, unless the deadline passed or there was too much to
    look at.
    """
    hubs, dropped_s = _sequences(problem, bound, cutoff_s)
    return _Search(problem, hubs, bound, cutoff_s, dropped_s).run(deadline)


def _sequences(problem: Problem, bound: Bound, cutoff_s: float) -> tuple[Ints, float]:
    """((sequences, halves + 1): ways from hub to hub that fit and whose bound is at most `cutoff_s`; bound of others).

    Where there are too many, those of least bound are kept on the way.
    """
    credit = float(problem.limits @ bound.prices[: problem.memories])
    memories, devices = problem.memories, problem.devices
    hubs = np.array([[problem.model.source]], np.int8)
    cost, used, dropped_s = np.zeros(1), np.zeros((1, memories)), np.inf
    for stage, (half, table) in enumerate(zip(problem.halves, bound.tables, strict=True)):
        last = hubs[:, -1].astype(np.int64)
        reached = cost[:, None] + table[last]
        least = reached + bound.ahead[stage + 1][None, :] - credit
        good = least <= cutoff_s
        if problem.same_hub and stage:
            good &= last[:, None] == np.arange(devices)[None, :]
        here, there = np.nonzero(good)
        if len(here) > SEQUENCES:
            order = np.argsort(least[here, there], kind="stable")
            dropped_s = min(dropped_s, float(least[here[order[SEQUENCES]], there[order[SEQUENCES]]]))
            here, there = here[order[:SEQUENCES]], there[order[:SEQUENCES]]
        using = used[here] + half.hub_use[there, :memories]
        fits = (using <= problem.limits).all(1)
        here, there, used = here[fits], there[fits], using[fits]
        cost = reached[here, there]
        hubs = np.hstack([hubs[here], there[:, None].astype(np.int8)])
    return hubs.astype(np.int64), dropped_s


class _Search:
    def __init__(self, problem: Problem, hubs: Ints, bound: Bound, cutoff_s: float, left_s: float) -> None:
        self.problem = problem
        self.left_s = left_s  # least bound of what is not looked at
        self.best_s = cutoff_s
        self.found: Found | None = None
        self.hubs = hubs
        self.spare = self._spare(hubs)
        self.least_s = self._bounds(bound)
        self.priced = np.zeros(len(hubs), bool)
        self.prices = [bound.prices]
        self.best_prices = np.zeros(len(hubs), np.int64)  # which of `prices` gives each sequence its bound
        self._keep(self.least_s < self._goal)

    @property
    def _goal(self) -> float:
        """A sequence whose bound is not below this cannot be better than the best found."""
        return self.best_s - SLACK * abs(self.best_s) if np.isfinite(self.best_s) else np.inf

    def run(self, deadline: Deadline) -> tuple[Found | None, float]:
        """Work through the sequences, least bound first."""
        while len(self.hubs):
            if deadline.passed():
                return self.found, min(self.left_s, float(self.least_s.min()))
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
        return self.found, min(self.left_s, self.best_s)

    def _keep(self, which: Flags) -> None:
        if not which.all():
            self.hubs, self.spare, self.least_s = self.hubs[which], self.spare[which], self.least_s[which]
            self.priced, self.best_prices = self.priced[which], self.best_prices[which]

    def _spare(self, hubs: Ints) -> Floats:
        """(sequences, memories): bytes that no number of units can use, because they come in whole ones."""
        problem = self.problem
        used = np.zeros((len(hubs), problem.memories))
        for stage, half in enumerate(problem.halves):
            used += half.hub_use[hubs[:, stage + 1], : problem.memories]
        units = np.where(problem.units > 0, problem.units, 1.0)
        return np.where(problem.units > 0, np.mod(problem.limits - used, units), 0.0)

    def _bounds(self, bound: Bound) -> Floats:
        problem, prices = self.problem, bound.prices[: self.problem.memories]
        least = problem.home[self.hubs[:, -1]] - float(problem.limits @ prices) + self.spare @ prices
        for stage, table in enumerate(bound.tables):
            least = least + table[self.hubs[:, stage], self.hubs[:, stage + 1]]
        return np.asarray(least)

    def _price(self, number: int) -> None:
        before = self.prices[self.best_prices[number]]
        within = self.best_s - self.least_s[number]
        prices = prices_of_sequence(self.problem, self.hubs[number], before, within)
        if prices is None:
            self.least_s[number] = np.inf
            return
        least = self._bounds(bound_at(self.problem, prices))
        better = least > self.least_s
        better[number] |= least[number] >= self.least_s[number]
        self.prices.append(prices)
        self.best_prices[better] = len(self.prices) - 1
        self.least_s = np.maximum(self.least_s, least)
        self.priced[number] = True

    def _solve(self, number: int) -> None:
        """The best ways for one sequence of hubs, if they cost less than the best found."""
        problem, hubs = self.problem, self.hubs[number]
        prices = self.prices[self.best_prices[number]]
        least_s = float(self.least_s[number])
        for width in (*WIDTHS, np.inf):
            gap = min(self.best_s - least_s, width * abs(least_s))
            states = _States(problem, hubs)
            for stage, half in enumerate(problem.halves):
                seconds = half.seconds[hubs[stage], hubs[stage + 1]]
                priced = seconds + half.use @ prices
                states.extend(seconds, priced - priced.min(initial=np.inf), half.use, gap)
            seconds = states.seconds + states.used[:, problem.memories :].max(1, initial=0.0) + problem.home[hubs[-1]]
            if len(seconds) and seconds.min() < self.best_s:
                least = int(seconds.argmin())
                self.best_s = float(seconds[least])
                self.found = Found(self.best_s, tuple(map(int, hubs[1:])), states.ways(least))
            if self.best_s <= least_s + gap:
                return


class _States:
    """Partial solutions of one sequence: the ways of the halves so far, what they cost and use."""

    def __init__(self, problem: Problem, hubs: Ints) -> None:
        self.memories = problem.memories
        fixed = np.zeros(problem.resources)
        for half, hub in zip(problem.halves, hubs[1:], strict=True):
            fixed += half.hub_use[hub]
        self.limits = problem.limits - fixed[: self.memories]
        self.seconds = np.zeros(1)
        self.over = np.zeros(1)  # priced seconds over the least
        self.used = np.zeros((1, problem.resources))
        self.used[0, problem.memories :] = fixed[problem.memories :]
        self._from: list[Ints] = []
        self._way: list[Ints] = []

    def extend(self, seconds: Floats, over: Floats, use: Floats, gap: float) -> None:
        """One more half: each of its ways after each state, as far as the bound and the limits allow."""
        ways = np.flatnonzero(over <= gap)
        if len(self.over) * len(ways) > 20 * STATES:
            raise _TooMany
        state, way = np.nonzero(self.over[:, None] + over[ways][None, :] <= gap)
        way = ways[way]
        if len(state) > STATES:
            raise _TooMany
        used = self.used[state] + use[way]
        fits = (used[:, : self.memories] <= self.limits).all(1)
        state, way, used = state[fits], way[fits], used[fits]
        total = self.seconds[state] + seconds[way]
        if len(state) > MERGE:
            kept = _cheapest(used, total)
            state, way, used, total = state[kept], way[kept], used[kept], total[kept]
        self.over = self.over[state] + over[way]
        self.seconds, self.used = total, used
        self._from.append(state)
        self._way.append(way)

    def ways(self, state: int) -> tuple[int, ...]:
        """The way of each half in one final state."""
        found: list[int] = []
        for before, way in zip(self._from[::-1], self._way[::-1], strict=True):
            found.append(int(way[state]))
            state = int(before[state])
        return tuple(found[::-1])


def _cheapest(used: Floats, seconds: Floats) -> Ints:
    """Of the rows that use the same, the one of least seconds."""
    order = np.lexsort((seconds, *used.T))
    same = (used[order][1:] == used[order][:-1]).all(1)
    return np.asarray(order[np.concatenate([[True], ~same])])
