"""Pipelines, compiled: x passes from one device to the next, and each is filled up before the next one begins.

Where links are slow or memory is short, the best placements are pipelines, and what matters is which devices take part
and in what order. Moves of single blocks hardly ever change that, because the memory is full. So a local search runs
over orders of devices, and judges each by the placement that it stands for.
"""

from __future__ import annotations

import numpy as np

from testbed.placement.annealing.moves import draw
from testbed.placement.annealing.problem import LATER_ROOM, LM_HEAD, RUN_END, SHORTLIST, TARGET, UNIT, Problem
from testbed.placement.annealing.state import State, copy_places, judge, kind_at, load
from testbed.placement.annealing.tuning import MOVES_PER_ORDER, ORDER_RESTARTS, ORDERS, PIPELINES
from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.machine_code import compiled, inlined


def orders_of(effort: int, halves: int) -> int:
    """Orders to look at in one local search when the whole decision looks at `effort` moves."""
    return max(1, min(ORDERS, effort // (MOVES_PER_ORDER * halves)))


def best_pipelines(p: Problem, s: State, weights: Floats, orders: int) -> list[Ints]:
    """The best pipelines found by local searches over orders, from the fastest devices first and from random orders.

    Each order is filled with whole halves and with halves that are split where a device ends. Each local search looks
    at so many `orders`.
    """
    order = p.devices[SHORTLIST, : p.worth_trying].copy()
    room = np.zeros(p.devices.shape[1], np.int64)
    places, best = np.zeros_like(p.old), np.zeros_like(p.old)
    found: dict[bytes, tuple[float, Ints]] = {}
    for start in range(ORDER_RESTARTS):
        for split in (False, True):
            value = _best_order(p, s, weights, orders, start > 0, split, order, room, places, best)
            found[best.tobytes()] = value, best.copy()
    return [places for _, places in sorted(found.values(), key=lambda one: one[0])[:PIPELINES]]


@compiled
def _best_order(
    p: Problem,
    s: State,
    weights: Floats,
    orders: int,
    shuffled: bool,
    split: bool,
    order: Ints,
    room: Ints,
    places: Ints,
    best: Ints,
) -> float:
    """Exchange two devices of the order, or put one elsewhere, as long as that is no worse.

    The pipeline goes to `best`, and its objective is returned. With `shuffled` the search begins from a random order.
    """
    count = len(order)
    if shuffled:
        for last in range(count - 1, 0, -1):
            _exchange(order, last, draw(s, last + 1))
    least = np.inf
    for turn in range(orders):
        a, b = draw(s, count), draw(s, count)
        moving = draw(s, 2) == 0
        if turn:
            if moving:
                _insert(order, a, b)
            else:
                _exchange(order, a, b)
        _fill(p, s, order, split, room, places)
        load(p, s, places, False)
        value = judge(p, s, weights)
        if value <= least:
            least = value
            copy_places(best, places)
        elif moving:
            _insert(order, b, a)
        else:
            _exchange(order, a, b)
    return least


@inlined
def _exchange(order: Ints, a: int, b: int) -> None:
    kept = order[a]
    order[a] = order[b]
    order[b] = kept


@inlined
def _insert(order: Ints, a: int, b: int) -> None:
    """Take the device at a out and insert it at b; those between move up."""
    kept = order[a]
    step = 1 if b > a else -1
    at = a
    while at != b:
        order[at] = order[at + step]
        at += step
    order[b] = kept


@inlined
def _fill(p: Problem, s: State, order: Ints, split: bool, room: Ints, places: Ints) -> None:
    """Fill the devices in order with the halves in token order, and go on to the next where a half does not fit.

    With `split`, such a half leaves as many units as fit on the device before.
    """
    halves, columns = places.shape
    devices = columns - 1
    for device in range(devices):
        room[device] = p.devices[LATER_ROOM, device]
    room[p.source] -= p.units[LM_HEAD] * p.sizes[RUN_END, LM_HEAD, UNIT]
    turn, last = 0, len(order) - 1
    for half in range(halves):
        for column in range(columns):
            places[half, column] = 0
        kind = kind_at(half, halves)
        left = p.units[kind]
        unit, target = p.sizes[RUN_END, kind, UNIT], p.sizes[RUN_END, kind, TARGET]
        if half >= halves - 2:
            places[half, devices] = p.source
            places[half, p.source] = left
            continue
        while room[order[turn]] < left * unit + target and turn < last:
            device = order[turn]
            if split and unit > 0:
                taken = min(left, room[device] // unit)
                if taken > 0:
                    places[half, device] += taken
                    room[device] -= taken * unit
                    left -= taken
            turn += 1
        device = order[turn]
        places[half, device] += left
        places[half, devices] = device
        room[device] -= left * unit + target
