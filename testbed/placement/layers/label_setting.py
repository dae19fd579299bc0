"""Moving whole layers: the cheapest interval, migration and tokens together, by a search with proof.

Layer by layer, every partial assignment is kept that may still lead to the optimum. Two that have put as many layers
on each device, moved as much over each link and onto each device, and have x in the same place differ only in what
they have cost, so the dearer one goes. One whose cost so far, plus the least that the layers left can cost, is not
below the cheapest complete assignment known goes too. If never more than `EFFORT` allows are left, the result is the
optimum; else the most promising are kept, and the result is the best that was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from testbed.placement.cost.model import MIGRATION_HANDSHAKE_S

if TYPE_CHECKING:
    import numpy as np

    from testbed.placement.layers.whole import WholeLayers

BEAM = 200  # partial assignments kept in a first, quick search for a good one
EFFORT = 100_000  # the same times the number of devices, in the search that is to prove it
ROUNDS = 60  # steps by which memory's prices are found
TIE_S = 1e-9


class Assignment(NamedTuple):
    """A device per layer, what its interval costs in seconds, and whether nothing can be cheaper."""

    devices: list[int]
    cost_s: float
    proven: bool


def cheapest_assignment(layers: WholeLayers, known_s: float) -> Assignment:
    """The cheapest assignment below `known_s`, the interval's cost if nothing moves (infinite if that does not fit).

    Without devices where none was found: then nothing should move, or nothing fits.
    """
    search = _Search(layers)
    if known_s - search.least_s <= TIE_S:
        return Assignment([], known_s, True)
    quick = search.run(known_s, BEAM)
    if quick.proven:
        return quick
    full = search.run(quick.cost_s, EFFORT // len(layers.home))
    return full if full.devices else quick._replace(proven=full.proven)


class _Level(NamedTuple):
    """Partial assignments of the first layers, one per row."""

    device: np.ndarray  # (n,) the last layer's device
    counts: np.ndarray  # (n, devices) layers on each
    loads: np.ndarray  # (n, resources) layers moved over each
    path: np.ndarray  # (n,) index of the longest delay among the moves, 0 for none
    busiest: np.ndarray  # (n,) seconds of the resource that takes longest
    seconds: np.ndarray  # (n,) latency so far
    parent: np.ndarray  # (n,) row in the level before


def _rows(level: _Level, rows: np.ndarray) -> _Level:
    return _Level(*(column[rows] for column in level))


def _mixed(rows: np.ndarray) -> np.ndarray:
    """A number of 64 bits for each row of bytes, alike for rows that are alike."""
    import numpy as np

    words = -(-rows.shape[1] // 8)
    padded = np.zeros((len(rows), words * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    factors = np.random.default_rng(1).integers(1, 2**63, words, np.uint64) * 2 + 1
    return (padded.view(np.uint64) * factors).sum(axis=1, dtype=np.uint64)


class _Search:
    def __init__(self, layers: WholeLayers) -> None:
        import numpy as np

        self.layers, self.count = layers, layers.count
        self.tokens = layers.draft.model.tokens
        self.step, self.home = np.array(layers.step), np.array(layers.home)
        self.room = np.array(layers.room)
        devices = len(self.home)
        self.migrations = layers.migrations()  # (old, new) -> resources
        self.unit_s = np.array(self.migrations.unit_s)
        self.delays = np.array(self.migrations.delays_s)  # ascending, the first is 0: no move
        self.least_after = self._least_after(np.zeros(devices))  # (count + 1, devices)
        self.prices = self._prices()
        self.priced_after = self._least_after(self.prices)
        source = layers.draft.model.source
        free = float((self.step[source] + self.least_after[1]).min())
        priced = float((self.step[source] + self.prices + self.priced_after[1]).min() - self.prices @ self.room)
        self.least_move_s = (
            min(
                (
                    float(self.unit_s[list(used)].max()) + self.delays[path]
                    for used, path in self.migrations.of.values()
                ),
                default=0.0,
            )
            + MIGRATION_HANDSHAKE_S
        )
        self.least_s = self.tokens * max(free, priced) + self.least_move_s

    def _least_after(self, prices: np.ndarray) -> np.ndarray:
        """[l, j]: the least latency of layers l, l+1, … and the way home when layer l-1 is on j, memory ignored but
        for `prices` per layer on a device."""
        import numpy as np

        after = np.empty((self.count + 1, len(self.home)))
        after[self.count] = self.home
        for layer in range(self.count - 1, -1, -1):
            after[layer] = (self.step + (prices + after[layer + 1])).min(axis=1)
        return after

    def _prices(self) -> np.ndarray:
        """What a layer's room is worth on each device, by subgradient steps on the Lagrangian dual (deterministic)."""
        import numpy as np

        prices = np.zeros(len(self.home))
        best, best_bound = prices, -np.inf
        scale = float(np.median(np.diag(self.step)))
        source = self.layers.draft.model.source
        for turn in range(ROUNDS):
            after = self._least_after(prices)
            bound = float((self.step[source] + prices + after[1]).min() - prices @ self.room)
            if bound > best_bound:
                best, best_bound = prices, bound
            used, here = np.zeros(len(prices)), source
            for layer in range(self.count):
                here = int((self.step[here] + prices + after[layer + 1]).argmin())
                used[here] += 1
            over = used - self.room
            norm = float(np.abs(over).max())
            if norm <= 0:
                break
            prices = np.maximum(0.0, prices + scale / (1 + turn / 4) * over / norm / 2)
        return best

    def run(self, below_s: float, width: int) -> Assignment:
        """The cheapest complete assignment under `below_s`; no devices where none was found."""
        import numpy as np

        devices = len(self.home)
        start = np.zeros((1, len(self.unit_s)), np.uint8)
        none = np.zeros(1, np.int32)
        level = _Level(
            np.full(1, self.layers.draft.model.source), np.zeros((1, devices), np.uint8), start, none, np.zeros(1),
            np.zeros(1), none,
        )  # fmt: skip
        levels, proven = [level], True
        for layer in range(self.count):
            level = self._expand(level, layer)
            bound = self._bound(level, layer + 1)
            promising = np.flatnonzero(bound < below_s - TIE_S)
            keep = promising[self._unique(_rows(level, promising))]
            if len(keep) > width:
                keep = keep[np.argsort(bound[keep], kind="stable")[:width]]
                proven = False
            if not len(keep):
                return Assignment([], below_s, proven)
            level = _rows(level, keep)
            levels.append(level)
        total = self._bound(level, self.count)
        row = int(total.argmin())
        cost, found = float(total[row]), []
        for level in reversed(levels[1:]):
            found.append(int(level.device[row]))
            row = int(level.parent[row])
        return Assignment(found[::-1], cost, proven)

    def _expand(self, level: _Level, layer: int) -> _Level:
        """Every assignment of one more layer that memory allows."""
        import numpy as np

        grown: list[_Level] = []
        old = self.layers.old[layer]
        for device in range(len(self.home)):
            used, path = self.migrations.of.get((old, device), ((), 0))
            able = level.counts[:, device] < self.room[device]
            if device != old:
                able &= level.loads[:, device] < self.layers.incoming[device]
            rows = np.flatnonzero(able)
            counts, loads = level.counts[rows], level.loads[rows]
            counts[:, device] += 1
            for resource in used:
                loads[:, resource] += 1
            seconds = level.seconds[rows] + self.step[level.device[rows], device]
            paths, busiest = np.maximum(level.path[rows], path), level.busiest[rows]
            for resource in used:
                busiest = np.maximum(busiest, loads[:, resource] * self.unit_s[resource])
            last, parent = np.full(len(rows), device), rows.astype(np.int32)
            grown.append(_Level(last, counts, loads, paths, busiest, seconds, parent))
        return _Level(*(np.concatenate(columns) for columns in zip(*grown, strict=True)))

    def _unique(self, level: _Level) -> np.ndarray:
        """The rows of the cheapest of those that are alike for all that follows, by their seconds."""
        import numpy as np

        order = np.argsort(level.seconds, kind="stable")
        alike = np.column_stack(
            (level.device.astype(np.uint8), level.path.astype(np.uint8), level.counts, level.loads)
        )[order]
        _, first, group = np.unique(_mixed(alike), return_index=True, return_inverse=True)
        if not (alike[first[group]] == alike).all():  # two that differ were mixed to the same number
            rows = np.ascontiguousarray(alike).view(np.dtype((np.void, alike.shape[1]))).ravel()
            _, first = np.unique(rows, return_index=True)
        return order[np.sort(first)]

    def _bound(self, level: _Level, layer: int) -> np.ndarray:
        """The least that an interval can cost from here; what it does cost once every layer is there."""
        import numpy as np

        moved = level.path > 0
        busiest = level.busiest + self.delays[level.path] + MIGRATION_HANDSHAKE_S
        migration = np.where(moved, busiest, self.least_move_s if layer < self.count else 0.0)
        left = (self.room - level.counts.astype(np.int64)) @ self.prices
        after = np.maximum(self.least_after[layer][level.device], self.priced_after[layer][level.device] - left)
        if layer == self.count:
            after = self.home[level.device]
        return migration + self.tokens * (level.seconds + after)
