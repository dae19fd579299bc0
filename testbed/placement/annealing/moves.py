"""Local search, compiled: the moves on a `State`, and descent or annealing by them."""

from __future__ import annotations

import math

import numpy as np

from testbed.placement.annealing.problem import HEAD, SHORT, Problem
from testbed.placement.annealing.state import (
    OVERFULL,
    TOO_MANY,
    WEIGHTS,
    State,
    add_up,
    begin,
    copy_places,
    copy_row,
    judge,
    kind_at,
    load,
    rollback,
    set_half,
)
from testbed.placement.cost.kernel import Floats, Ints, compiled, inlined

# The moves. Each changes one half or a run of them; `a` and `b` are devices, or `a` is another half.
SHIFT = 0  # `size` units of a half from a to b
TARGETS_TO = 1  # the targets of a run of `size` halves to b
UNITS_TO = 2  # the units of a run of halves to b
ALL_TO = 3  # a run of halves, units and targets, to b
RENAME = 4  # in a run of halves, all that is on a to b
COPY = 5  # do as another half of the kind does
EXCHANGE = 6  # two halves of the kind change places
EXCHANGE_TARGETS = 7
TRADE = 8  # a unit of one half from a to b, and one of half `size` from b to a
SPREAD = 9  # `size` layers, from the half's on, do as the layer of half a does
SMALLEST_GAIN = 1e-9  # of the objective; less is rounding


@inlined
def _edit(s: State, half: int) -> int:
    """A new edit, of the half as it is; its row."""
    columns = s.place.shape[1]
    number = s.size[1]
    copy_row(s.edits[number], s.place[half], columns)
    s.edits[number, columns] = half
    s.size[1] += 1
    return number


@inlined
def make_move(p: Problem, s: State, move: int, half: int, a: int, b: int, size: int, later: bool) -> bool:
    """Make one move; False, and nothing done, where it would change nothing or is not possible."""
    halves, columns = s.place.shape
    s.size[1] = 0
    if move == SHIFT:
        if a == b or s.place[half, a] < size:
            return False
        edit = s.edits[_edit(s, half)]
        edit[a] -= size
        edit[b] += size
    elif move < RENAME:
        for one in range(half, half + 1 if half > halves - 2 else min(halves - 2, half + size)):
            units = p.units[kind_at(s, one)]
            edit = s.edits[_edit(s, one)]
            if move != TARGETS_TO:
                edit[: columns - 1] = 0
                edit[b] = units
            if move != UNITS_TO:
                edit[columns - 1] = b
    elif move == RENAME:
        for one in range(half, min(halves - 2, half + size)):
            edit = s.edits[_edit(s, one)]
            if a != b:
                edit[b] += edit[a]
                edit[a] = 0
            if edit[columns - 1] == a:
                edit[columns - 1] = b
    elif move == COPY:
        copy_row(s.edits[_edit(s, half)], s.place[a], columns)
    elif move == EXCHANGE:
        copy_row(s.edits[_edit(s, half)], s.place[a], columns)
        copy_row(s.edits[_edit(s, a)], s.place[half], columns)
    elif move == EXCHANGE_TARGETS:
        s.edits[_edit(s, half)][columns - 1] = s.place[a, columns - 1]
        s.edits[_edit(s, a)][columns - 1] = s.place[half, columns - 1]
    elif move == TRADE:
        if size == half or s.place[half, a] == 0 or s.place[size, b] == 0 or a == b:
            return False
        edit = s.edits[_edit(s, half)]
        edit[a] -= 1
        edit[b] += 1
        edit = s.edits[_edit(s, size)]
        edit[a] += 1
        edit[b] -= 1
    elif move == SPREAD:
        for one in range(half - half % 2, min(halves - 2, half + 2 * size)):
            copy_row(s.edits[_edit(s, one)], s.place[a - a % 2 + one % 2], columns)
    for number in range(s.size[1]):
        edit = s.edits[number]
        one = edit[columns]
        for column in range(columns):
            if edit[column] != s.place[one, column]:
                set_half(p, s, one, edit, later)
                break
    return s.size[0] > 0


@inlined
def _note(found: Ints, row: int, move: int, half: int, a: int, b: int, size: int) -> None:
    found[row, 0], found[row, 1], found[row, 2], found[row, 3], found[row, 4] = move, half, a, b, size


@inlined
def _candidates(p: Problem, s: State, half: int, found: Ints) -> int:
    """The moves that begin in one half, as it is now; how many."""
    halves, columns = s.place.shape
    last, devices = halves - 2, columns - 1
    in_layer = half < last
    count = 0
    target = s.place[half, devices]
    for number in range(p.worth_trying):
        b = p.devices[SHORT, number]
        for move, size in (
            (TARGETS_TO, 1),
            (TARGETS_TO, 2),
            (UNITS_TO, 1),
            (ALL_TO, 1),
            (ALL_TO, 2),
            (ALL_TO, 3),
            (ALL_TO, 4),
            (RENAME, 2),
            (RENAME, last),
        ):
            if (move == RENAME and target == b) or (move == UNITS_TO and p.units[kind_at(s, half)] == 0):
                continue
            if not in_layer and move != UNITS_TO:
                continue
            _note(found, count, move, 0 if size == last else half, target, b, size)
            count += 1
        for a in range(devices):
            held = s.place[half, a]
            if held == 0 or a == b:
                continue
            for size in (1, held // 2, held):
                if size > 1 or (size == 1 and held < 4):
                    _note(found, count, SHIFT, half, a, b, size)
                    count += 1
            if held >= 4:
                _note(found, count, SHIFT, half, a, b, 1)
                count += 1
    if not in_layer:
        return count
    for other in range(half % 2, last, 2):
        if other != half:
            _note(found, count, COPY, half, other, 0, 0)
            count += 1
        if other > half:
            _note(found, count, EXCHANGE, half, other, 0, 0)
            _note(found, count + 1, EXCHANGE_TARGETS, half, other, 0, 0)
            count += 2
        if other != half and half % 2 == 0:
            _note(found, count, SPREAD, half, other, 0, 1)
            count += 1
    if half % 2 == 0:
        _note(found, count, SPREAD, 0, half, 0, last // 2)
        _note(found, count + 1, SPREAD, half, half, 0, last // 2)
        count += 2
    return count


@inlined
def draw(s: State, below: int) -> int:
    """The next random number, from 0 to `below` - 1: xorshift64*, Vigna 2016."""
    x = s.salt[-1]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    s.salt[-1] = x
    return np.int64(((x * np.uint64(2685821657736338717)) >> np.uint64(33)) % np.uint64(below))  # type: ignore[return-value]


@inlined
def _random_move(p: Problem, s: State) -> tuple[int, int, int, int, int]:
    """A move to try, or one that changes nothing."""
    halves, columns = s.place.shape
    last = halves - 2
    half = draw(s, last + (p.units[HEAD] > 0))
    half += half == last  # the LM head, after the way home
    b = p.devices[SHORT, draw(s, p.worth_trying)]
    other = half % 2 + 2 * draw(s, last // 2)
    roll = draw(s, 100)
    if p.units[kind_at(s, half)] and (roll < 45 or half > last):
        busy, a = 0, 0
        for device in range(columns - 1):
            if s.place[half, device]:
                busy += 1
                if draw(s, busy) == 0:
                    a = device
        if roll < 20:
            return SHIFT, half, a, b, 1
        if roll < 30:
            return SHIFT, half, a, b, 1 + draw(s, s.place[half, a])
        if roll < 42 and half < last:
            return TRADE, half, a, b, other
        return UNITS_TO, half, 0, b, 1
    if roll < 62:
        return TARGETS_TO, half, 0, b, 1
    if roll < 70:
        return TARGETS_TO, half, 0, b, 2
    if roll < 77:
        return ALL_TO, half, 0, b, 1 + draw(s, 4)
    if roll < 83:
        return COPY, half, other, 0, 0
    if roll < 95:
        return (EXCHANGE if roll < 89 else EXCHANGE_TARGETS), half, other, 0, 0
    if roll < 98:
        return SPREAD, half, other, 0, 1 + draw(s, last // 2)
    return RENAME, half, s.place[half, columns - 1], b, 1 + draw(s, 4)


@compiled
def search(
    p: Problem, s: State, weights: Floats, effort: int, hot: float, cold: float, soft: float, later: bool
) -> float:
    """Look at up to `effort` moves; returns the objective, and `figures` are up to date.

    With `hot` 0 a descent: every move of every half in turn, each taken if it lowers the objective, until none does.
    Else annealing: random moves under a temperature that falls from `hot` to `cold` seconds, while bytes too many
    cost `soft` of their weight at first and all of it at the end; it ends at the best place met that overfills
    nothing, or where it is when there was none.
    """
    last = len(s.place) - 2
    heads = 1 if p.units[HEAD] > 0 else 0
    for weight in range(WEIGHTS):
        s.priced[weight] = weights[weight]
    present = judge(p, s, weights)
    annealing = hot > 0.0
    found_one = s.figures[TOO_MANY] == 0
    best = present
    copy_places(s.kept, s.place)
    cooling = math.log(cold / hot) / effort if annealing else 0.0
    softening = -math.log(soft) / effort if annealing else 0.0
    temperature = hot
    half, row, rows, quiet = draw(s, last), 0, 0, 0
    for step in range(effort):
        if annealing:
            if step % 64 == 0:
                temperature = hot * math.exp(cooling * step)
                s.priced[OVERFULL] = weights[OVERFULL] * soft * math.exp(softening * step)
                add_up(s)
                present = judge(p, s, s.priced)
            move, first, a, b, size = _random_move(p, s)
        else:
            if row == rows:
                if quiet == last + heads:
                    break
                quiet += 1
                half += 1
                if half == last and heads:
                    half += 1
                elif half >= last:
                    half = 0
                rows, row = _candidates(p, s, half, s.candidates), 0
            move, first, a = s.candidates[row, 0], s.candidates[row, 1], s.candidates[row, 2]
            b, size = s.candidates[row, 3], s.candidates[row, 4]
            row += 1
        begin(s)
        if not make_move(p, s, move, first, a, b, size, later):
            continue
        value = judge(p, s, s.priced)
        if annealing:
            worse = value - present
            accepted = worse <= 0 or draw(s, 1 << 30) < (1 << 30) * math.exp(-worse / temperature)
        else:
            accepted = value < present - SMALLEST_GAIN * abs(present)
        if not accepted:
            rollback(p, s)
            continue
        present = value
        quiet = 0
        if annealing and s.figures[TOO_MANY] == 0 and (value < best or not found_one):
            best = value
            found_one = True
            copy_places(s.kept, s.place)
    if annealing and found_one:
        load(p, s, s.kept, later)
    else:
        add_up(s)
    return judge(p, s, weights)
