"""The cheapest interval when whole layers move: a label-setting algorithm with dominance and lower bounds.

A label is an assignment of the first layers to devices. Labels are extended by one layer after another. One label
dominates another if both have put as many layers on each device, have moved as much over each link and onto each
device, have x on the same device, and the first one costs less; the dominated label is dropped. A label is also dropped
if its cost so far, plus the least that the layers left can cost, is not below the cheapest complete assignment known.
While no layer has more labels than the width allows, the result is the optimum. Otherwise the most promising labels are
kept, as in beam search, and the result is the best one found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from testbed.placement.cost.model import MIGRATION_HANDSHAKE_S

if TYPE_CHECKING:
    import numpy as np

    from testbed.placement.layers.whole import WholeLayers

BEAM_WIDTH = 200  # labels per layer of a first, quick run, whose result bounds the second one
LABELS = 100_000  # labels per layer times the number of devices in the second run: what it may take of memory and time
SUBGRADIENT_STEPS = 60  # that look for prices of memory; any prices give a valid bound, better ones a tighter one
SHORTENED_EVERY = 4  # steps after which a subgradient step has half the length of the first one
FIRST_STEP = 0.5  # of the median time of a layer, which is the scale of what its memory can be worth
TIE_S = 1e-9  # costs closer than this are equal but for rounding


class Assignment(NamedTuple):
    """A device for each layer, the seconds that its interval costs, and whether nothing can be cheaper."""

    devices: list[int]
    cost_s: float
    proven: bool


def cheapest_assignment(layers: WholeLayers, known_s: float) -> Assignment:
    """The cheapest assignment that costs less than `known_s`; without devices where none was found.

    `known_s` is what the interval costs if nothing moves, and infinite if that does not fit.
    """
    algorithm = _LabelSetting(layers)
    if known_s - algorithm.least_s <= TIE_S:
        return Assignment([], known_s, True)
    quick = algorithm.run(known_s, BEAM_WIDTH)
    if quick.proven:
        return quick
    full = algorithm.run(quick.cost_s, LABELS // len(layers.home))
    return full if full.devices else quick._replace(proven=full.proven)


class _Labels(NamedTuple):
    """The labels of the first layers, one per row."""

    device: np.ndarray  # (n,) the last layer's device
    counts: np.ndarray  # (n, devices) layers on each
    loads: np.ndarray  # (n, resources) layers moved over each
    path: np.ndarray  # (n,) index of the longest delay among the moves, 0 for none
    busiest: np.ndarray  # (n,) seconds of the resource that takes longest
    seconds: np.ndarray  # (n,) latency so far
    parent: np.ndarray  # (n,) row among the labels of one layer less


def _rows(labels: _Labels, rows: np.ndarray) -> _Labels:
    return _Labels(*(column[rows] for column in labels))


def _hashes(rows: np.ndarray) -> np.ndarray:
    """A number of 64 bits for each row of bytes; equal rows have equal numbers."""
    import numpy as np

    words = -(-rows.shape[1] // 8)
    padded = np.zeros((len(rows), words * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    factors = np.random.default_rng(1).integers(1, 2**63, words, np.uint64) * 2 + 1
    return (padded.view(np.uint64) * factors).sum(axis=1, dtype=np.uint64)


class _LabelSetting:
    """The algorithm on one draft, with the bounds that hold for it."""

    def __init__(self, layers: WholeLayers) -> None:
        import numpy as np

        self.layers, self.count = layers, layers.count
        self.tokens = layers.draft.model.tokens
        self.step, self.home = np.array(layers.step), np.array(layers.home)
        self.room = np.array(layers.room)
        devices = len(self.home)
        self.migrations = layers.migrations()
        self.unit_s = np.array(self.migrations.unit_s)
        self.delays = np.array(self.migrations.delays_s)  # ascending; the first is 0, for no move
        self.least_after = self._least_after(np.zeros(devices))  # (count + 1, devices)
        self.prices = self._prices()
        self.priced_after = self._least_after(self.prices)
        source = layers.draft.model.source
        free = float((self.step[source] + self.least_after[1]).min())
        priced = float((self.step[source] + self.prices + self.priced_after[1]).min() - self.prices @ self.room)
        one_move = (
            float(self.unit_s[list(used)].max()) + self.delays[path] for used, path in self.migrations.of.values()
        )
        self.least_move_s = min(one_move, default=0.0) + MIGRATION_HANDSHAKE_S
        self.least_s = self.tokens * max(free, priced) + self.least_move_s

    def _least_after(self, prices: np.ndarray) -> np.ndarray:
        """[l, j]: the least latency of layers l, l+1, … and the way home when layer l-1 is on j.

        Memory is left out, but each layer on a device costs that device's price.
        """
        import numpy as np

        after = np.empty((self.count + 1, len(self.home)))
        after[self.count] = self.home
        for layer in range(self.count - 1, -1, -1):
            after[layer] = (self.step + (prices + after[layer + 1])).min(axis=1)
        return after

    def _prices(self) -> np.ndarray:
        """Lagrangian prices: what memory for one layer is worth on each device. Found by subgradient steps."""
        import numpy as np

        prices = np.zeros(len(self.home))
        best, best_bound = prices, -np.inf
        scale = float(np.median(np.diag(self.step)))
        source = self.layers.draft.model.source
        for turn in range(SUBGRADIENT_STEPS):
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
            prices = np.maximum(0.0, prices + scale / (1 + turn / SHORTENED_EVERY) * over / norm * FIRST_STEP)
        return best

    def run(self, below_s: float, width: int) -> Assignment:
        """The cheapest complete assignment under `below_s`, with at most `width` labels kept for each layer.

        It has no devices where none was found.
        """
        import numpy as np

        devices = len(self.home)
        start = np.zeros((1, len(self.unit_s)), np.uint8)
        none = np.zeros(1, np.int32)
        labels = _Labels(
            np.full(1, self.layers.draft.model.source), np.zeros((1, devices), np.uint8), start, none, np.zeros(1),
            np.zeros(1), none,
        )  # fmt: skip
        all_labels, proven = [labels], True
        for layer in range(self.count):
            labels = self._extend(labels, layer)
            bound = self._bound(labels, layer + 1)
            promising = np.flatnonzero(bound < below_s - TIE_S)
            keep = promising[self._undominated(_rows(labels, promising))]
            if len(keep) > width:
                keep = keep[np.argsort(bound[keep], kind="stable")[:width]]
                proven = False
            if not len(keep):
                return Assignment([], below_s, proven)
            labels = _rows(labels, keep)
            all_labels.append(labels)
        total = self._bound(labels, self.count)
        row = int(total.argmin())
        cost, found = float(total[row]), []
        for labels in reversed(all_labels[1:]):
            found.append(int(labels.device[row]))
            row = int(labels.parent[row])
        return Assignment(found[::-1], cost, proven)

    def _extend(self, labels: _Labels, layer: int) -> _Labels:
        """Every label with one more layer that memory allows."""
        import numpy as np

        extended: list[_Labels] = []
        old = self.layers.old[layer]
        for device in range(len(self.home)):
            used, path = self.migrations.of.get((old, device), ((), 0))
            able = labels.counts[:, device] < self.room[device]
            if device != old:
                able &= labels.loads[:, device] < self.layers.incoming[device]
            rows = np.flatnonzero(able)
            counts, loads = labels.counts[rows], labels.loads[rows]
            counts[:, device] += 1
            for resource in used:
                loads[:, resource] += 1
            seconds = labels.seconds[rows] + self.step[labels.device[rows], device]
            paths, busiest = np.maximum(labels.path[rows], path), labels.busiest[rows]
            for resource in used:
                busiest = np.maximum(busiest, loads[:, resource] * self.unit_s[resource])
            last, parent = np.full(len(rows), device), rows.astype(np.int32)
            extended.append(_Labels(last, counts, loads, paths, busiest, seconds, parent))
        return _Labels(*(np.concatenate(columns) for columns in zip(*extended, strict=True)))

    def _undominated(self, labels: _Labels) -> np.ndarray:
        """The rows of the labels with the fewest seconds among those that are alike for all that follows."""
        import numpy as np

        order = np.argsort(labels.seconds, kind="stable")
        alike = np.column_stack(
            (labels.device.astype(np.uint8), labels.path.astype(np.uint8), labels.counts, labels.loads)
        )[order]
        _, first, group = np.unique(_hashes(alike), return_index=True, return_inverse=True)
        if not (alike[first[group]] == alike).all():  # two different rows have the same hash
            rows = np.ascontiguousarray(alike).view(np.dtype((np.void, alike.shape[1]))).ravel()
            _, first = np.unique(rows, return_index=True)
        return order[np.sort(first)]

    def _bound(self, labels: _Labels, layer: int) -> np.ndarray:
        """The least that an interval can cost from here; what it does cost once every layer is assigned."""
        import numpy as np

        moved = labels.path > 0
        busiest = labels.busiest + self.delays[labels.path] + MIGRATION_HANDSHAKE_S
        migration = np.where(moved, busiest, self.least_move_s if layer < self.count else 0.0)
        left = (self.room - labels.counts.astype(np.int64)) @ self.prices
        after = np.maximum(self.least_after[layer][labels.device], self.priced_after[layer][labels.device] - left)
        if layer == self.count:
            after = self.home[labels.device]
        return migration + self.tokens * (labels.seconds + after)
