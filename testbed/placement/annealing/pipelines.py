"""Chains of devices, compiled: x passes from one device to the next, each filled up before the next one begins.

Where links are slow or memory is short, the best placements are of this kind, and what matters is which devices take
part and in what order. Single moves of blocks hardly ever change that, because the memory is full; so orders of devices
are searched here, and each is judged by the placement that it stands for.
"""

from __future__ import annotations

import numpy as np

from testbed.placement.annealing.moves import draw
from testbed.placement.annealing.problem import HEAD, LATER_ROOM, RUN, SHORT, TARGET, UNIT, Problem
from testbed.placement.annealing.state import State, copy_places, judge, kind_at, load
from testbed.placement.cost.kernel import Floats, Ints, compiled, inlined

RESTARTS, KEPT = 12, 8  # beginnings, and how many chains are kept
MOST_TRIES = 1000  # orders looked at from one start
EFFORT_PER_TRY = 20  # moves of the other search, for each half, that one order counts for


def tries_of(effort: int, halves: int) -> int:
    """Orders to look at from one start when `effort` moves are looked at in all."""
    return max(1, min(MOST_TRIES, effort // (EFFORT_PER_TRY * halves)))


def best_chains(p: Problem, s: State, weights: Floats, tries: int) -> list[Ints]:
    """The best chains found, from some random orders of the devices worth trying; halves split at the ends, and not."""
    order = p.devices[SHORT, : p.worth_trying].copy()
    room = np.zeros(p.devices.shape[1], np.int64)
    place, best = np.zeros_like(p.old), np.zeros_like(p.old)
    found: dict[bytes, tuple[float, Ints]] = {}
    for start in range(RESTARTS):
        for split in (False, True):
            value = _search(p, s, weights, tries, start > 0, split, order, room, place, best)
            found[best.tobytes()] = value, best.copy()
    return [place for _, place in sorted(found.values(), key=lambda one: one[0])[:KEPT]]


@compiled
def _search(
    p: Problem, s: State, weights: Floats, tries: int, anew: bool, split: bool, order: Ints, room: Ints, place: Ints,
    best: Ints,
) -> float:  # fmt: skip
    """Exchange two devices of the order, or put one elsewhere, as long as that is no worse; `best` is the result."""
    count = len(order)
    if anew:
        for last in range(count - 1, 0, -1):
            _exchange(order, last, draw(s, last + 1))
    least = np.inf
    for turn in range(tries):
        a, b = draw(s, count), draw(s, count)
        moving = draw(s, 2) == 0
        if turn:
            if moving:
                _put(order, a, b)
            else:
                _exchange(order, a, b)
        _fill(p, s, order, split, room, place)
        load(p, s, place, False)
        value = judge(p, s, weights)
        if value <= least:
            least = value
            copy_places(best, place)
        elif moving:
            _put(order, b, a)
        else:
            _exchange(order, a, b)
    return least


@inlined
def _exchange(order: Ints, a: int, b: int) -> None:
    kept = order[a]
    order[a] = order[b]
    order[b] = kept


@inlined
def _put(order: Ints, a: int, b: int) -> None:
    """What is at a goes to b, and all between moves up."""
    kept = order[a]
    step = 1 if b > a else -1
    at = a
    while at != b:
        order[at] = order[at + step]
        at += step
    order[b] = kept


@inlined
def _fill(p: Problem, s: State, order: Ints, split: bool, room: Ints, place: Ints) -> None:
    """Halves in token order, each on the first device of the order that has room, from the last one's on.

    With `split` the units of a half that does not fit any more fill the device up, and the rest goes on with the next.
    """
    halves, columns = place.shape
    devices = columns - 1
    for device in range(devices):
        room[device] = p.devices[LATER_ROOM, device]
    room[p.source] -= p.units[HEAD] * p.sizes[RUN, HEAD, UNIT]
    turn, last = 0, len(order) - 1
    for half in range(halves):
        for column in range(columns):
            place[half, column] = 0
        kind = kind_at(s, half)
        left = p.units[kind]
        unit, target = p.sizes[RUN, kind, UNIT], p.sizes[RUN, kind, TARGET]
        if half >= halves - 2:
            place[half, devices] = p.source
            place[half, p.source] = left
            continue
        while room[order[turn]] < left * unit + target and turn < last:
            device = order[turn]
            if split and unit > 0:
                taken = min(left, room[device] // unit)
                if taken > 0:
                    place[half, device] += taken
                    room[device] -= taken * unit
                    left -= taken
            turn += 1
        device = order[turn]
        place[half, device] += left
        place[half, devices] = device
        room[device] -= left * unit + target
