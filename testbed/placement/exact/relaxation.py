"""The Lagrangian relaxation of a program: a lower bound on its cost, and the prices that make this bound best.

Where resources have prices instead of limits, stages depend on each other only through the hub between them, and the
cheapest solution is a shortest path over hubs. Its cost less what the limits are worth is a lower bound for all prices
that are not negative and, for links and storage together, at most 1 (because a migration waits for the busiest of
them). The best prices are the duals of a linear programme over paths, solved by column generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from testbed.placement.array_types import Floats, Ints
from testbed.placement.exact.limits import (
    CLOSE,
    COLUMN_ROUNDS,
    LEAST_SCALE_S,
    LEAST_SEQUENCE_SCALE_S,
    OVERUSE_COST,
    OVERUSED,
)
from testbed.placement.exact.program import Program
from testbed.placement.highs import quiet_highs


@dataclass(frozen=True)
class Bound:
    """Prices and what they prove: no solution of the program costs less than `seconds`."""

    prices: Floats  # (resources,)
    seconds: float
    cheapest: Floats  # (stages, devices, devices): cost of the cheapest priced option, by hubs
    to_go: Floats  # (stages + 1, devices): cost of the cheapest path from each hub back to the source
    overused: bool = False  # whether the linear programme had to exceed a limit


def bound_at(program: Program, prices: Floats, overused: bool = False) -> Bound:
    """The Lagrangian bound at some prices."""
    cheapest = np.stack([stage.priced(prices).min(2, initial=np.inf) for stage in program.stages])
    to_go = [program.return_s]
    for table in cheapest[::-1]:
        to_go.append((table + to_go[-1][None, :]).min(1))
    credit = float(program.limits @ prices[: program.memories])
    best = _shortest_path(program, cheapest, to_go[-1])
    return Bound(prices, best - credit, cheapest, np.stack(to_go[::-1]), overused)


def _shortest_path(program: Program, cheapest: Floats, to_go: Floats) -> float:
    source = program.model.source
    if not program.same_hub:
        return float(to_go[source])
    first, others, home = cheapest[0, source], cheapest[1:], program.return_s
    return float(min(first[hub] + others[:, hub, hub].sum() + home[hub] for hub in range(program.devices)))


def best_bound(program: Program) -> Bound:
    """The bound of the linear programme over all paths, whose columns are generated as the prices ask for them."""
    best = bound_at(program, np.zeros(program.resources))
    if not np.isfinite(best.seconds):
        return best
    master = _Master(program, max(best.seconds, LEAST_SCALE_S))
    master.add(best)
    for _ in range(COLUMN_ROUNDS):
        value, prices, overused = master.solve()
        found = bound_at(program, prices, overused)
        added = master.add(found)
        if found.seconds >= best.seconds:
            best = found
        if value - best.seconds <= CLOSE * abs(value) or not added:
            break
    return best


class _Master:
    """The restricted master problem: flows from hub to hub over the columns known so far, which share resources."""

    def __init__(self, program: Program, scale: float) -> None:
        self.program = program
        self.scale = scale  # seconds of one unit of the objective
        self.known: set[tuple[int, int, int, int]] = set()
        self.highs = quiet_highs()
        devices, stages = program.devices, len(program.stages)
        self.first_row = (stages + 1) * devices
        size = np.full(program.resources, scale)
        size[: program.memories] = np.maximum(program.limits, 1.0)
        self.size = size
        infinity = self.highs.inf
        for stage in range(stages + 1):
            for hub in range(devices):
                flow = -1.0 if stage == 0 and hub == program.model.source else 0.0
                self.highs.addRow(flow, flow, 0, _NONE, _NOTHING)
        for number in range(program.resources):
            limit = program.limits[number] / size[number] if number < program.memories else 0.0
            self.highs.addRow(-infinity, float(limit), 0, _NONE, _NOTHING)
        self.highs.addRow(1.0, 1.0, 0, _NONE, _NOTHING)
        for hub in range(devices):
            rows = [stages * devices + hub, self.first_row + program.resources]
            self._column(float(program.return_s[hub]) / scale, rows, [-1.0, 1.0])
        self.overuse: list[int] = []
        for number in range(program.memories):
            self.overuse.append(self.highs.getNumCol())
            self._column(OVERUSE_COST, [self.first_row + number], [-1.0])
        times = range(program.memories, program.resources)
        if times:
            self._column(1.0, [self.first_row + number for number in times], [-1.0] * len(times))

    def _column(self, cost: float, rows: Sequence[int], values: Sequence[float]) -> None:
        indices = np.array(rows, np.int32)
        self.highs.addCol(cost, 0.0, self.highs.inf, len(rows), indices, np.array(values, np.float64))

    def add(self, bound: Bound) -> int:
        """Add the cheapest option of each stage and pair of hubs at the bound's prices; returns how many are new."""
        added, devices = 0, self.program.devices
        for number, stage in enumerate(self.program.stages):
            cheapest = stage.priced(bound.prices).argmin(2)
            for i in range(devices) if number else (self.program.model.source,):
                for j in range(devices):
                    if not np.isfinite(bound.cheapest[number, i, j]) or (self.program.same_hub and number and i != j):
                        continue
                    option = int(cheapest[i, j])
                    if (number, i, j, option) in self.known:
                        continue
                    self.known.add((number, i, j, option))
                    used = (stage.use[option] + stage.hub_use[j]) / self.size
                    which = np.flatnonzero(used)
                    rows = [number * devices + i, (number + 1) * devices + j, *(self.first_row + which)]
                    self._column(float(stage.seconds[i, j, option]) / self.scale, rows, [-1.0, 1.0, *used[which]])
                    added += 1
        return added

    def solve(self) -> tuple[float, Floats, bool]:
        """(value in seconds, prices, whether a limit is exceeded)."""
        self.highs.run()
        solution = self.highs.getSolution()
        duals = np.array(solution.row_dual)[self.first_row : self.first_row + self.program.resources]
        overused = any(solution.col_value[column] > OVERUSED for column in self.overuse)
        value = float(self.highs.getObjectiveValue()) * self.scale
        return value, _valid(-duals * self.scale / self.size, self.program.memories), overused


_NONE, _NOTHING = np.array([], np.int32), np.array([], np.float64)


def _valid(prices: Floats, memories: int) -> Floats:
    """Prices made valid: none negative, and those of links and storage together at most 1."""
    prices = np.maximum(prices, 0.0)
    together = float(prices[memories:].sum())
    if together > 1:
        prices[memories:] /= together
    return prices


def prices_of_sequence(program: Program, hubs: Ints, prices: Floats, within_s: float) -> Floats | None:
    """The best prices when the hubs are fixed (`hubs[0]` the source); None when their limits cannot be kept.

    Options take no part that cost over `within_s` seconds more than the cheapest of their stage at the present prices.
    """
    limits = program.limits.copy()
    fixed = np.zeros(program.resources)
    for stage, hub in zip(program.stages, hubs[1:], strict=True):
        fixed += stage.hub_use[hub]
    limits -= fixed[: program.memories]
    if (limits < 0).any():
        return None
    costs: list[Floats] = []
    uses: list[Floats] = []
    members: list[Ints] = []
    for number, stage in enumerate(program.stages):
        seconds = stage.seconds[hubs[number], hubs[number + 1]]
        priced = seconds + stage.use @ prices
        near = np.flatnonzero((priced <= priced.min(initial=np.inf) + within_s) & np.isfinite(priced))
        if not len(near):
            return None
        costs.append(seconds[near])
        uses.append(stage.use[near])
        members.append(np.full(len(near), number, np.int64))
    rights = np.concatenate([limits, -fixed[program.memories :]])
    return _with_fixed_hubs(program, np.concatenate(costs), np.vstack(uses), np.concatenate(members), rights)


def _with_fixed_hubs(program: Program, costs: Floats, uses: Floats, members: Ints, rights: Floats) -> Floats | None:
    highs = quiet_highs()
    stages, resources, memories = len(program.stages), program.resources, program.memories
    scale = max(float(costs.max()), LEAST_SEQUENCE_SCALE_S)
    size = np.full(resources, scale)
    size[:memories] = np.maximum(program.limits, 1.0)
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
    highs.passModel(_linear_program(objective, matrix, lower, upper, infinity))
    highs.run()
    if str(highs.getModelStatus()) != "HighsModelStatus.kOptimal":
        return None
    duals = np.array(highs.getSolution().row_dual)[stages:]
    return _valid(-duals * scale / size, memories)


def _linear_program(objective: Floats, matrix: Floats, lower: Floats, upper: Floats, infinity: float) -> Any:
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
