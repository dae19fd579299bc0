"""Layers on devices one after another: EdgeShard's dynamic program, and first-fit where that finds nothing.

Both respect memory approximately: an assignment that fits can be missed. `integer_program` and `label_setting` are
exact.
"""

from __future__ import annotations

from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.draft import UNPLACED

Entry = tuple[float, tuple[int, ...]]  # (seconds, device of each layer so far)


def fastest_path(layers: WholeLayers, source: int, pinned: bool = True) -> tuple[int, ...] | None:
    """The dynamic program's path, as a device for each layer; None where its memory rule ends in nothing.

    The table has one entry per device for the first i layers: the fastest path that ends there. An entry may be
    extended to a device with space for one layer more than its own path has put there. With `pinned` the first layer is
    at the source, if it fits there.
    """
    devices = range(len(layers.home))
    first = [source] if pinned and _fits_one_more(layers, (), source) else list(devices)
    table: dict[int, Entry] = {j: (layers.step[source][j], (j,)) for j in first if _fits_one_more(layers, (), j)}
    for _ in range(1, layers.count):
        following: dict[int, Entry] = {}
        for j in devices:
            for k, (seconds, path) in table.items():
                total = seconds + layers.step[k][j]
                if (j not in following or total < following[j][0]) and _fits_one_more(layers, path, j):
                    following[j] = (total, (*path, j))
        table = following
    ends = [(seconds + layers.home[j], j) for j, (seconds, _) in table.items()]
    return table[min(ends)[1]][1] if ends else None


def first_fit(layers: WholeLayers, source: int) -> tuple[int, ...] | None:
    """Layers in order to devices, the source first, then the most space; a layer that can stay does. None: no fit."""
    order = sorted(range(len(layers.home)), key=lambda j: (j != source, -layers.room[j], j))
    path: tuple[int, ...] = ()
    for layer in range(layers.count):
        home = layers.old[layer]
        order_now = ([home] if home != UNPLACED else []) + order
        device = next((j for j in order_now if _fits_one_more(layers, path, j)), None)
        if device is None:
            return None
        path = (*path, device)
    return path


def _fits_one_more(layers: WholeLayers, path: tuple[int, ...], device: int) -> bool:
    """Whether the next layer of a path may go to `device`, beside those it already put there."""
    here = [layer for layer, where in enumerate((*path, device)) if where == device]
    coming = sum(layers.old[layer] != device for layer in here)
    return len(here) <= layers.room[device] and (coming == 0 or coming <= layers.incoming[device])
