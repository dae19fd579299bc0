"""Lower bounds: what a decision costs at least when resources have prices instead of limits, and the best prices.

With prices, the halves no longer depend on each other but for the hub between them, and the cheapest token's way is
a shortest path: a Lagrangian bound for any prices that are not negative and give links and storage together at most
1 (a migration waits for the busiest of them). The best prices are the duals of a linear programme over ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.placement.exact.options import Ints
from testbed.placement.exact.program import Floats, Problem
from testbed.placement.highs import quiet_highs

ROUNDS = 200  # of columns added to the linear programme, at most
CLOSE = 1e-7  # relative distance of bound and linear programme at which the prices are good enough
OVERUSE = 100.0  # what exceeding a limit by all of it costs in the linear programme, in costs of a token's way


@dataclass(frozen=True)
class Bound:
    """Prices and what they prove: no solution of the problem costs less than `seconds`."""

    prices: Floats  # (resources,)
    seconds: float
    tables: Floats  # (halves, devices, devices): cheapest priced way by hubs
    ahead: Floats  # (halves + 1, devices): cheapest way on from each hub, the way home included
    overused: bool = False  # whether the linear programme had to exceed a limit


def bound_at(problem: Problem, prices: Floats, overused: bool = False) -> Bound:
    """The Lagrangian bound at some prices."""
    tables = np.stack([half.priced(prices).min(2, initial=np.inf) for half in problem.halves])
    ahead = [problem.home]
    for table in tables[::-1]:
        ahead.append((table + ahead[-1][None, :]).min(1))
    credit = float(problem.limits @ prices[: problem.memories])
    best = _best_way(problem, tables, ahead[-1])
    return Bound(prices, best - credit, tables, np.stack(ahead[::-1]), overused)


def _best_way(problem: Problem, tables: Floats, ahead: Floats) -> float:
    if not problem.same_hub:
        return float(ahead[problem.model.source])
    source = problem.model.source
    each = [tables[0, source, hub] + tables[1:, hub, hub].sum() + problem.home[hub] for hub in range(problem.devices)]
    return float(min(each))


def best_prices(problem: Problem) -> Bound:
    """The bound of the linear programme over all token's ways, whose columns are generated as prices ask for them."""
    best = bound_at(problem, np.zeros(problem.resources))
    if not np.isfinite(best.seconds):
        return best
    master = _Master(problem, max(best.seconds, 1e-9))
    master.add(best)
    for _ in range(ROUNDS):
        value, prices, overused = master.solve()
        found = bound_at(problem, prices, overused)
        added = master.add(found)
        if found.seconds >= best.seconds:
            best = found
        if value - best.seconds <= CLOSE * abs(value) or not added:
            break
    return best


class _Master:
    """A linear programme of flows from hub to hub that shares resources."""

    def __init__(self, problem: Problem, scale: float) -> None:
        self.problem = problem
        self.scale = scale  # seconds of one unit of the objective
        self.known: set[tuple[int, int, int, int]] = set()
        self.highs = quiet_highs()
        devices, stages = problem.devices, len(problem.halves)
        self.first_row = (stages + 1) * devices
        size = np.full(problem.resources, scale)
        size[: problem.memories] = np.maximum(problem.limits, 1.0)
        self.size = size
        infinity = self.highs.inf
        for stage in range(stages + 1):
            for hub in range(devices):
                flow = -1.0 if stage == 0 and hub == problem.model.source else 0.0
                self.highs.addRow(flow, flow, 0, _NONE, _NOTHING)
        for number in range(problem.resources):
            limit = problem.limits[number] / size[number] if number < problem.memories else 0.0
            self.highs.addRow(-infinity, float(limit), 0, _NONE, _NOTHING)
        self.highs.addRow(1.0, 1.0, 0, _NONE, _NOTHING)
        for hub in range(devices):
            rows = [stages * devices + hub, self.first_row + problem.resources]
            self._column(float(problem.home[hub]) / scale, rows, [-1.0, 1.0])
        self.overuse: list[int] = []
        for number in range(problem.memories):
            self.overuse.append(self.highs.getNumCol())
            self._column(OVERUSE, [self.first_row + number], [-1.0])
        times = range(problem.memories, problem.resources)
        if times:
            self._column(1.0, [self.first_row + number for number in times], [-1.0] * len(times))

    def _column(self, cost: float, rows: Sequence[int], values: Sequence[float]) -> None:
        indices = np.array(rows, np.int32)
        self.highs.addCol(cost, 0.0, self.highs.inf, len(rows), indices, np.array(values, np.float64))

    def add(self, bound: Bound) -> int:
        """Add, for each pair of hubs of each half, its cheapest way under the bound's prices; how many are new."""
        added, devices = 0, self.problem.devices
        for stage, half in enumerate(self.problem.halves):
            cheapest = half.priced(bound.prices).argmin(2)
            for i in range(devices) if stage else (self.problem.model.source,):
                for j in range(devices):
                    if not np.isfinite(bound.tables[stage, i, j]) or (self.problem.same_hub and stage and i != j):
                        continue
                    way = int(cheapest[i, j])
                    if (stage, i, j, way) in self.known:
                        continue
                    self.known.add((stage, i, j, way))
                    used = (half.use[way] + half.hub_use[j]) / self.size
                    which = np.flatnonzero(used)
                    rows = [stage * devices + i, (stage + 1) * devices + j, *(self.first_row + which)]
                    self._column(float(half.seconds[i, j, way]) / self.scale, rows, [-1.0, 1.0, *used[which]])
                    added += 1
        return added

    def solve(self) -> tuple[float, Floats, bool]:
        """(value in seconds, prices, whether a limit is exceeded)."""
        self.highs.run()
        solution = self.highs.getSolution()
        duals = np.array(solution.row_dual)[self.first_row : self.first_row + self.problem.resources]
        overused = any(solution.col_value[column] > 1e-9 for column in self.overuse)
        value = float(self.highs.getObjectiveValue()) * self.scale
        return value, _valid(-duals * self.scale / self.size, self.problem.memories), overused


_NONE, _NOTHING = np.array([], np.int32), np.array([], np.float64)


def _valid(prices: Floats, memories: int) -> Floats:
    """Prices that are not negative, and together at most 1 for links and storage."""
    prices = np.maximum(prices, 0.0)
    together = float(prices[memories:].sum())
    if together > 1:
        prices[memories:] /= together
    return prices


def prices_of_sequence(problem: Problem, hubs: Ints, prices: Floats, within_s: float) -> Floats | None:
    """The best prices when the hubs are fixed (`hubs[0]` the source); None when their limits cannot be kept.

    Ways that cost over `within_s` seconds more than the cheapest of their half, at the present prices, take no part.
    """
    limits = problem.limits.copy()
    fixed = np.zeros(problem.resources)
    for half, hub in zip(problem.halves, hubs[1:], strict=True):
        fixed += half.hub_use[hub]
    limits -= fixed[: problem.memories]
    if (limits < 0).any():
        return None
    costs: list[Floats] = []
    uses: list[Floats] = []
    members: list[Ints] = []
    for number, half in enumerate(problem.halves):
        seconds = half.seconds[hubs[number], hubs[number + 1]]
        priced = seconds + half.use @ prices
        near = np.flatnonzero((priced <= priced.min(initial=np.inf) + within_s) & np.isfinite(priced))
        if not len(near):
            return None
        costs.append(seconds[near])
        uses.append(half.use[near])
        members.append(np.full(len(near), number, np.int64))
    rights = np.concatenate([limits, -fixed[problem.memories :]])
    return _fixed_hubs(problem, np.concatenate(costs), np.vstack(uses), np.concatenate(members), rights)


def _fixed_hubs(problem: Problem, costs: Floats, uses: Floats, members: Ints, rights: Floats) -> Floats | None:
    highs = quiet_highs()
    stages, resources, memories = len(problem.halves), problem.resources, problem.memories
    scale = max(float(costs.max()), 1e-12)
    size = np.full(resources, scale)
    size[:memories] = np.maximum(problem.limits, 1.0)
    infinity = highs.inf
    lower = np.concatenate([np.ones(stages), np.full(resources, -infinity)])
    upper = np.concatenate([np.ones(stages), rights / size])
    columns = len(costs) + (resources > memories)
    matrix = np.zeros((columns, stages + resources))
    matrix[np.arange(len(costs)), members] = 1.0
    matrix[: len(costs), stages:] = uses / size
    objective = np.zeros(columns)
    objective[: len(costs)] = costs / scale
    if resources > memories:
        objective[-1] = 1.0
        matrix[-1, stages + memories :] = -1.0
    highs.passModel(_model(objective, matrix, lower, upper, infinity))
    highs.run()
    if str(highs.getModelStatus()) != "HighsModelStatus.kOptimal":
        return None
    duals = np.array(highs.getSolution().row_dual)[stages:]
    return _valid(-duals * scale / size, memories)


def _model(objective: Floats, matrix: Floats, lower: Floats, upper: Floats, infinity: float) -> Any:
    """A linear programme over non-negative columns; `matrix` is (columns, rows)."""
    import highspy

    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = matrix.shape
    model.col_cost_ = objective
    model.col_lower_, model.col_upper_ = np.zeros(len(objective)), np.full(len(objective), infinity)
    model.row_lower_, model.row_upper_ = lower, upper
    which, rows = np.nonzero(matrix)
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_ = np.concatenate([[0], np.cumsum(np.bincount(which, minlength=len(objective)))])
    model.a_matrix_.index_, model.a_matrix_.value_ = rows, matrix[which, rows]
    return model
