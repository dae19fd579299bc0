"""Local search, compiled: the moves on a `State`, and descent or simulated annealing by them."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np

from testbed.placement.annealing import tuning
from testbed.placement.annealing.problem import LM_HEAD, SHORTLIST, Problem
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
from testbed.placement.annealing.tuning import LONGEST_RUN, MANY_FIRST, SMALLEST_GAIN, TEMPERATURE_STEPS
from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.machine_code import compiled, inlined

# The kinds of move. Each changes one half or a run of them; `a` and `b` are devices, or `a` is another half.
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

# A random number from 0 to 99 below each of these means that kind of move; above the last, `RENAME`.
(
    _SHIFT_ONE,
    _SHIFT_SOME,
    _TRADE,
    _GATHER_UNITS,
    _TARGET,
    _TWO_TARGETS,
    _WHOLE_RUN,
    _COPY,
    _EXCHANGE,
    _EXCHANGE_TARGETS,
    _SPREAD,
    _ALL,
) = accumulate(
    (
        tuning.SHIFT_ONE,
        tuning.SHIFT_SOME,
        tuning.TRADE,
        tuning.GATHER_UNITS,
        tuning.TARGET,
        tuning.TWO_TARGETS,
        tuning.WHOLE_RUN,
        tuning.COPY,
        tuning.EXCHANGE,
        tuning.EXCHANGE_TARGETS,
        tuning.SPREAD,
        tuning.RENAME,
    )
)


@inlined
def _edit(s: State, half: int) -> int:
    """Begin an edit, of the half as it is; returns its row."""
    columns = s.places.shape[1]
    number = s.size[1]
    copy_row(s.edits[number], s.places[half], columns)
    s.edits[number, columns] = half
    s.size[1] += 1
    return number


@inlined
def _make_move(p: Problem, s: State, move: int, half: int, a: int, b: int, size: int, later: bool) -> bool:
    """Make one move; returns False, and does nothing, where it is not possible or would change nothing."""
    halves, columns = s.places.shape
    s.size[1] = 0
    if move == SHIFT:
        if a == b or s.places[half, a] < size:
            return False
        edit = s.edits[_edit(s, half)]
        edit[a] -= size
        edit[b] += size
    elif move < RENAME:
        for one in range(half, half + 1 if half > halves - 2 else min(halves - 2, half + size)):
            units = p.units[kind_at(one, halves)]
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
        copy_row(s.edits[_edit(s, half)], s.places[a], columns)
    elif move == EXCHANGE:
        copy_row(s.edits[_edit(s, half)], s.places[a], columns)
        copy_row(s.edits[_edit(s, a)], s.places[half], columns)
    elif move == EXCHANGE_TARGETS:
        s.edits[_edit(s, half)][columns - 1] = s.places[a, columns - 1]
        s.edits[_edit(s, a)][columns - 1] = s.places[half, columns - 1]
    elif move == TRADE:
        if size == half or s.places[half, a] == 0 or s.places[size, b] == 0 or a == b:
            return False
        edit = s.edits[_edit(s, half)]
        edit[a] -= 1
        edit[b] += 1
        edit = s.edits[_edit(s, size)]
        edit[a] += 1
        edit[b] -= 1
    elif move == SPREAD:
        for one in range(half - half % 2, min(halves - 2, half + 2 * size)):
            copy_row(s.edits[_edit(s, one)], s.places[a - a % 2 + one % 2], columns)
    for number in range(s.size[1]):
        edit = s.edits[number]
        one = edit[columns]
        for column in range(columns):
            if edit[column] != s.places[one, column]:
                set_half(p, s, one, edit, later)
                break
    return s.size[0] > 0


@inlined
def _note(moves: Ints, row: int, move: int, half: int, a: int, b: int, size: int) -> None:
    moves[row, 0], moves[row, 1], moves[row, 2], moves[row, 3], moves[row, 4] = move, half, a, b, size


@inlined
def _list_moves(p: Problem, s: State, half: int, moves: Ints) -> int:
    """List the moves that begin in one half, as it is now; returns how many there are."""
    halves, columns = s.places.shape
    last, devices = halves - 2, columns - 1
    in_layer = half < last
    count = 0
    target = s.places[half, devices]
    for number in range(p.worth_trying):
        b = p.devices[SHORTLIST, number]
        for move, size in (
            (TARGETS_TO, 1),
            (TARGETS_TO, 2),
            (UNITS_TO, 1),
            (ALL_TO, 1),
            (ALL_TO, 2),
            (ALL_TO, 3),
            (ALL_TO, LONGEST_RUN),
            (RENAME, 2),
            (RENAME, last),
        ):
            if (move == RENAME and target == b) or (move == UNITS_TO and p.units[kind_at(half, halves)] == 0):
                continue
            if not in_layer and move != UNITS_TO:
                continue
            _note(moves, count, move, 0 if size == last else half, target, b, size)
            count += 1
        for a in range(devices):
            held = s.places[half, a]
            if held == 0 or a == b:
                continue
            for size in (1, held // 2, held):
                if size > 1 or (size == 1 and held < MANY_FIRST):
                    _note(moves, count, SHIFT, half, a, b, size)
                    count += 1
            if held >= MANY_FIRST:
                _note(moves, count, SHIFT, half, a, b, 1)
                count += 1
    if not in_layer:
        return count
    for other in range(half % 2, last, 2):
        if other != half:
            _note(moves, count, COPY, half, other, 0, 0)
            count += 1
        if other > half:
            _note(moves, count, EXCHANGE, half, other, 0, 0)
            _note(moves, count + 1, EXCHANGE_TARGETS, half, other, 0, 0)
            count += 2
        if other != half and half % 2 == 0:
            _note(moves, count, SPREAD, half, other, 0, 1)
            count += 1
    if half % 2 == 0:
        _note(moves, count, SPREAD, 0, half, 0, last // 2)
        _note(moves, count + 1, SPREAD, half, half, 0, last // 2)
        count += 2
    return count


@inlined
def draw(s: State, below: int) -> int:
    """The next random number, from 0 to `below` - 1: xorshift64*, Vigna 2016."""
    x = s.hash_keys[-1]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    s.hash_keys[-1] = x
    return np.int64(((x * np.uint64(2685821657736338717)) >> np.uint64(33)) % np.uint64(below))  # type: ignore[return-value]


@inlined
def _random_move(p: Problem, s: State) -> tuple[int, int, int, int, int]:
    """A move to try, in the shares of `tuning`; it may change nothing."""
    halves, columns = s.places.shape
    last = halves - 2
    half = draw(s, last + (p.units[LM_HEAD] > 0))
    half += half == last  # the LM head comes after the return, which has nothing to move
    b = p.devices[SHORTLIST, draw(s, p.worth_trying)]
    other = half % 2 + 2 * draw(s, last // 2)
    roll = draw(s, _ALL)
    if p.units[kind_at(half, halves)] and (roll < _GATHER_UNITS or half > last):
        busy, a = 0, 0
        for device in range(columns - 1):
            if s.places[half, device]:
                busy += 1
                if draw(s, busy) == 0:
                    a = device
        if roll < _SHIFT_ONE:
            return SHIFT, half, a, b, 1
        if roll < _SHIFT_SOME:
            return SHIFT, half, a, b, 1 + draw(s, s.places[half, a])
        if roll < _TRADE and half < last:
            return TRADE, half, a, b, other
        return UNITS_TO, half, 0, b, 1
    if roll < _TARGET:  # all below too, where a half has no units
        return TARGETS_TO, half, 0, b, 1
    if roll < _TWO_TARGETS:
        return TARGETS_TO, half, 0, b, 2
    if roll < _WHOLE_RUN:
        return ALL_TO, half, 0, b, 1 + draw(s, LONGEST_RUN)
    if roll < _COPY:
        return COPY, half, other, 0, 0
    if roll < _EXCHANGE_TARGETS:
        return (EXCHANGE if roll < _EXCHANGE else EXCHANGE_TARGETS), half, other, 0, 0
    if roll < _SPREAD:
        return SPREAD, half, other, 0, 1 + draw(s, last // 2)
    return RENAME, half, s.places[half, columns - 1], b, 1 + draw(s, LONGEST_RUN)


@compiled
def descend_or_anneal(
    p: Problem, s: State, weights: Floats, effort: int, hot: float, cold: float, soft: float, later: bool
) -> float:
    """Look at up to `effort` moves; returns the objective, and brings `figures` up to date.

    With `hot` 0 it descends: it tries every move of every half in turn and makes those that lower the objective, until
    none does. Otherwise it anneals: it tries random moves at a temperature that falls from `hot` to `cold` seconds.
    Bytes too many cost `soft` of their weight at first and all of it at the end. The state is then that of the best
    places met that overfill nothing; if all did, it is the last one.
    """
    last = len(s.places) - 2
    lm_head = 1 if p.units[LM_HEAD] > 0 else 0
    for weight in range(WEIGHTS):
        s.priced[weight] = weights[weight]
    present = judge(p, s, weights)
    annealing = hot > 0.0
    found_one = s.figures[TOO_MANY] == 0
    best = present
    copy_places(s.kept, s.places)
    cooling = math.log(cold / hot) / effort if annealing else 0.0
    softening = -math.log(soft) / effort if annealing else 0.0
    temperature = hot
    half, row, rows, quiet = draw(s, last), 0, 0, 0
    for step in range(effort):
        if annealing:
            if step % TEMPERATURE_STEPS == 0:
                temperature = hot * math.exp(cooling * step)
                s.priced[OVERFULL] = weights[OVERFULL] * soft * math.exp(softening * step)
                add_up(s)
                present = judge(p, s, s.priced)
            move, first, a, b, size = _random_move(p, s)
        else:
            if row == rows:
                if quiet == last + lm_head:
                    break
                quiet += 1
                half += 1
                if half == last and lm_head:
                    half += 1
                elif half >= last:
                    half = 0
                rows, row = _list_moves(p, s, half, s.moves), 0
            move, first, a = s.moves[row, 0], s.moves[row, 1], s.moves[row, 2]
            b, size = s.moves[row, 3], s.moves[row, 4]
            row += 1
        begin(s)
        if not _make_move(p, s, move, first, a, b, size, later):
            continue
        value = judge(p, s, s.priced)
        if annealing:
            worse = value - present
            accepted = worse <= 0 or draw(s, 1 << 30) < (1 << 30) * math.exp(-worse / temperature)
        else:
            accepted = value < present - SMALLEST_GAIN * abs(present)
        if not accepted:
            rollback(s)
            continue
        present = value
        quiet = 0
        if annealing and s.figures[TOO_MANY] == 0 and (value < best or not found_one):
            best = value
            found_one = True
            copy_places(s.kept, s.places)
    if annealing and found_one:
        load(p, s, s.kept, later)
    else:
        add_up(s)
    return judge(p, s, weights)
