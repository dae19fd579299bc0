"""Where a search for a placement begins: simple placements, whether they fit or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from testbed.placement.annealing.problem import (
    INTERVAL_END,
    LATER_ROOM,
    RUN_END,
    SHORTLIST,
    TARGET,
    UNIT,
    Problem,
    kind_of,
)
from testbed.placement.annealing.tuning import SINGLE_DEVICES, SPREAD_OVER
from testbed.placement.array_types import Ints
from testbed.placement.cost.tables import FIRST_HALF, HALF_ROWS


def first_starts(p: Problem) -> Iterator[Ints]:
    """Everything on single devices, layers filled into devices in several orders, and units spread by speed."""
    fastest = p.devices[SHORTLIST, : p.worth_trying].tolist()
    for device in fastest[:SINGLE_DEVICES]:
        yield together(p, device)
    roomiest = sorted(fastest, key=lambda device: -int(p.devices[LATER_ROOM, device]))
    source_first = [p.source, *(device for device in fastest if device != p.source)]
    for order in (fastest, source_first, roomiest):
        for row in (RUN_END, INTERVAL_END):
            yield filled(p, order, row)
    for many in SPREAD_OVER:
        if many <= len(fastest):
            yield spread(p, fastest[:many])


def together(p: Problem, device: int) -> Ints:
    """Everything on one device."""
    found = np.zeros_like(p.old)
    for half in range(len(found)):
        found[half, device] = p.units[kind_of(half, len(found))]
        found[half, -1] = device
    found[-2:, -1] = p.source
    return found


def filled(p: Problem, order: list[int], row: int) -> Ints:
    """Halves in token order, each whole on the first device of `order` where it still fits.

    Sizes are those of a row of `Problem.sizes`.
    """
    found = np.zeros_like(p.old)
    room = p.devices[LATER_ROOM].copy()
    turn = 0
    for half in range(len(found)):
        kind = kind_of(half, len(found))
        need = int(p.units[kind] * p.sizes[row, kind, UNIT] + p.sizes[row, kind, TARGET])
        fitting = [n for n in range(turn, len(order)) if room[order[n]] >= need]
        if not fitting:
            fitting = [n for n in range(len(order)) if room[order[n]] >= need]
        turn = fitting[0] if fitting else max(range(len(order)), key=lambda n: room[order[n]])
        device = order[turn]
        room[device] -= need
        found[half, device] = p.units[kind]
        found[half, -1] = device
    found[-2:, -1] = p.source
    return found


def spread(p: Problem, devices: list[int]) -> Ints:
    """Heads and shards over some devices in proportion to their speed.

    Results meet at the first of them, where an FFN that is whole stays too.
    """
    found = np.zeros_like(p.old)
    rates = p.tables.rates
    for half in range(len(found)):
        kind = kind_of(half, len(found))
        found[half, -1] = devices[0]
        if not p.units[kind]:
            continue
        speed = 1 / rates[FIRST_HALF + HALF_ROWS * kind, devices]
        share = np.floor(p.units[kind] * speed / speed.sum()).astype(np.int64)
        share[0] += p.units[kind] - share.sum()
        found[half, devices] = share
    found[-2:, -1] = p.source
    return found
