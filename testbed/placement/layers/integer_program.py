"""The cheapest first placement of whole layers: an integer program over x's walk from device to device. It is exact.

Layers are all alike. So while nothing is placed yet, only two numbers matter: how often x goes from device i to device
j, and how many layers are on j. The integer program therefore has one column for each hop i->j, and one for the layers
on each device. A device that x comes to computes at least one layer, and no more than fit on it. The hops must
form one walk from the source; separate circles, or subtours, are ruled out by cuts that are added as needed. Maximum
flow finds violated cuts, first in the linear relaxation and then in each integer solution. The first integer optimum
without a subtour is the optimum of all walks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from testbed.placement.highs import quiet_highs

SPAN = 1e4  # the longest time in the solver's units: its tolerances, about 1e-6, then are 1e-10 of that time
GAP = 1e-7  # in these units: within it an optimum counts as proven
CUT = 1e-4  # in visits: smaller violations of a cut are rounding
FLOW = 1e-9  # in visits: smaller flows are none
TRIANGLE_S = 1e-15  # by which a direct hop may be longer than a detour through rounding alone
Seconds = Sequence[Sequence[float]]


def cheapest_walk(
    step: Seconds, home: Sequence[float], room: Sequence[int], count: int, source: int
) -> list[int] | None:
    """The device of each of `count` layers, or None where `room`, in layers by device, is too small.

    `step[i][j]` has the seconds of a layer on j with x coming from i, and `home[j]` those after the last layer.
    """
    able = [j for j, layers in enumerate(room) if layers]
    if sum(room) < count:
        return None
    program = _WalkProgram(step, home, room, count, source, able)
    program.solve_relaxed()
    return program.solve()


class _WalkProgram:
    """The integer program. `START` stands for x before the first layer, `END` for x after the last one."""

    START, END = -1, -2

    def __init__(
        self, step: Seconds, home: Sequence[float], room: Sequence[int], count: int, source: int, able: list[int]
    ) -> None:
        self.able, self.room, self.count = able, room, count
        hop = {(i, j): step[i][j] - step[j][j] for i, j in product(able, able) if i != j}
        hop |= {(self.START, j): step[source][j] - step[j][j] for j in able}
        hop |= {(j, self.END): home[j] for j in able}
        longest = max(max(hop.values()), max(step[j][j] for j in able))
        self.scale = SPAN / max(longest, 1e-12)  # the solver's tolerances are absolute; 1e-12 in case all are 0
        self.once = _never_worth_returning(hop, able)
        self.highs = quiet_highs()
        self.highs.setOptionValue("mip_rel_gap", 0.0)
        self.highs.setOptionValue("mip_abs_gap", GAP)
        self.column: dict[tuple[int, int], int] = {}
        for (i, j), seconds in hop.items():
            outer = i == self.START or j == self.END
            self._column(seconds, 1 if outer or self.once else min(room[i], room[j]))
            self.column[i, j] = len(self.column)
        self.layers = {j: len(self.column) + place for place, j in enumerate(able)}
        for j in able:
            self._column(step[j][j], min(room[j], count))
        self._connect()

    def _column(self, seconds: float, most: int) -> None:
        self.highs.addVar(0.0, float(most))
        self.highs.changeColCost(self.highs.getNumCol() - 1, seconds * self.scale)

    def _row(self, low: float, high: float, entries: dict[int, float]) -> None:
        self.highs.addRow(low, high, len(entries), list(entries), list(entries.values()))

    def _connect(self) -> None:
        many = self.highs.getInfinity()
        self._row(1, 1, {k: 1.0 for (i, _), k in self.column.items() if i == self.START})
        self._row(self.count, self.count, dict.fromkeys(self.layers.values(), 1.0))
        for j in self.able:
            into = {k: 1.0 for (_, to), k in self.column.items() if to == j}
            out = {k: -1.0 for (start, _), k in self.column.items() if start == j}
            here = self.layers[j]
            self._row(0, 0, into | out)
            self._row(0, many, {here: 1.0} | dict.fromkeys(into, -1.0))
            self._row(-many, 0, {here: 1.0} | dict.fromkeys(into, -float(self.room[j])))
            if self.once:
                self._row(0, 1, into)

    def solve_relaxed(self) -> None:
        """Add cuts until the relaxation has no subtour. That makes the integer program quick."""
        self.highs.run()
        while self._cut(self._values(), CUT):
            self.highs.run()

    def solve(self) -> list[int]:
        """The optimal walk, as a device for each layer."""
        from highspy import HighsVarType

        for column in range(self.highs.getNumCol()):
            self.highs.changeColIntegrality(column, HighsVarType.kInteger)
        self.highs.run()
        while self._cut([float(round(value)) for value in self._values()], 0.5):
            self.highs.run()
        return self._walk([round(value) for value in self._values()])

    def _values(self) -> list[float]:
        return list(self.highs.getSolution().col_value)

    def _cut(self, values: Sequence[float], least: float) -> bool:
        """Add a cut for every group of devices that x visits more often than it comes there from outside the group."""
        flows = {pair: values[k] for pair, k in self.column.items() if values[k] > FLOW and pair[1] != self.END}
        came = {j: sum(flow for (_, to), flow in flows.items() if to == j) for j in self.able}
        covered: set[int] = set()
        for device in sorted(self.able, key=lambda j: (-came[j], j)):
            times = 1.0 if self.once else float(self.room[device])
            if came[device] < CUT or device in covered:
                continue
            flow, reached = _max_flow(flows, self.START, device)
            if flow * times >= came[device] - least * (1.0 if self.once else 1e-3):
                continue
            apart = set(self.able) - reached
            entries: dict[int, float] = {}
            for (i, j), k in self.column.items():
                if j in apart and i not in apart:
                    entries[k] = entries.get(k, 0.0) + times
                if j == device:
                    entries[k] = entries.get(k, 0.0) - 1.0
            self._row(0, self.highs.getInfinity(), {k: factor for k, factor in entries.items() if factor})
            covered |= apart
        return bool(covered)

    def _walk(self, values: Sequence[int]) -> list[int]:
        """The walk along all hops, by Hierholzer's algorithm.

        Each visit computes one layer, and a device's first visit also all layers that are left over.
        """
        left: dict[int, list[int]] = {}
        for (i, j), k in self.column.items():
            left.setdefault(i, []).extend([j] * values[k])
        stack, tour = [self.START], []
        while stack:
            onward = left.get(stack[-1])
            if onward:
                stack.append(onward.pop())
            else:
                tour.append(stack.pop())
        visits = [device for device in reversed(tour) if device >= 0]
        devices: list[int] = []
        for place, device in enumerate(visits):
            first = device not in visits[:place]
            devices += [device] * (1 + (values[self.layers[device]] - visits.count(device) if first else 0))
        return devices


def _never_worth_returning(hop: dict[tuple[int, int], float], able: Sequence[int]) -> bool:
    """Whether no hop takes longer than a detour, as on every star. Then x visits each device at most once."""
    ends = [_WalkProgram.START, *able], [*able, _WalkProgram.END]
    for i, k in product(*ends):
        direct = 0.0 if i == k else hop.get((i, k), 0.0)
        if any(direct > hop[i, j] + hop[j, k] + TRIANGLE_S for j in able if j not in (i, k)):
            return False
    return True


def _max_flow(flows: dict[tuple[int, int], float], start: int, goal: int) -> tuple[float, set[int]]:
    """(maximum flow, nodes on the start's side of a minimum cut), by shortest augmenting paths (Edmonds-Karp)."""
    left: dict[int, dict[int, float]] = {}
    for (i, j), flow in flows.items():
        left.setdefault(i, {})[j] = flow
        left.setdefault(j, {}).setdefault(i, 0.0)
    total = 0.0
    while True:
        came = {start: start}
        queue = [start]
        for node in queue:
            for following, room in left.get(node, {}).items():
                if room > FLOW and following not in came:
                    came[following] = node
                    queue.append(following)
        if goal not in came:
            return total, set(came)
        path = [goal]
        while path[-1] != start:
            path.append(came[path[-1]])
        hops = list(zip(path[1:], path[:-1], strict=True))
        more = min(left[i][j] for i, j in hops)
        for i, j in hops:
            left[i][j] -= more
            left[j][i] += more
        total += more
