"""A placement under search, compiled: what it costs and what it overfills, kept up to date change by change.

A `State` belongs to a `Problem`. Changes go through `set_half`, which notes what was there before; `rollback` takes
back all changes since `begin`, which has copied the sums. The figures are a second copy of `cost.model.interval_cost`
and `cost.memory.shortages`, and tested to be the same. Problem and state are tuples of few arrays, because each array
costs time at every call and when compiling.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.placement.annealing.problem import (
    INTERVAL_END,
    LATER,
    LATER_ROOM,
    LOAD,
    NOW,
    OLD_NOW,
    RECEIVERS,
    ROOM,
    RUN_END,
    SENDERS,
    SENT,
    TARGET,
    THIS,
    UNIT,
    Problem,
    kind_of,
)
from testbed.placement.annealing.tuning import FIRST_MEMO, MEMO
from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.kernel import half_seconds, scratch_for
from testbed.placement.cost.machine_code import compiled, inlined

Hashes = NDArray[np.uint64]

# Weights: what a state is judged by, in seconds per unit; `CAP` is in seconds.
LATER_WEIGHT = 0  # per second of expected latency after the interval: the tokens it counts for; 0 leaves it out
OVERFULL = 1  # per byte too many during the interval
RUN_OVERFULL = 2  # per byte too many at the run's end
CAP, OVER_CAP = 3, 4  # interval seconds above the cap, and what one of them costs
WEIGHTS = 5
# Figures that `judge` finds besides: seconds of the interval, expected latency later, bytes too many during the
# interval and at the run's end, seconds of migration.
INTERVAL, LATER_LATENCY, TOO_MANY, TOO_MANY_RUN, MIGRATION = range(5)
# After them, kept up to date by every change: the sums of `terms` (rows THIS and LATER), and what they were at `begin`.
SUMS, SUMS_BEFORE, FIGURES = 5, 7, 9
# Rows of `sums`: bytes at the interval's and the run's end, arriving bytes and blocks, bytes loaded from storage.
AT_INTERVAL_END, AT_RUN_END, INCOMING, ARRIVALS, LOADED = range(5)
SUM_ROWS = 5  # after them, the same rows as they were at `begin`
PATH_DELAY = 2  # row of `terms` after THIS and LATER: longest path delay of a half's moves
MOVE_COLUMNS = 5  # of `moves`: kind, half, a, b, size
# The columns of `hash_keys` after the devices': holder, target, kind of half, case; and the state of `draw`.
HOLDER_KEY, TARGET_KEY, KIND_KEY, CASE_KEY, KEYS = range(5)
HASH_SEED = 20250502  # any fixed number: the keys must only be odd and look random


class State(NamedTuple):
    """Where every block would be, and the sums that follow from it."""

    places: Ints  # (halves, devices + 1): counts, and in the last column the target
    terms: Floats  # (3, halves + 1): seconds during the interval and later, and path delays
    sums: Ints  # (2 * SUM_ROWS, devices)
    carried: Ints  # (2, directed links): bytes migrated over each now, and at `begin`
    figures: Floats  # (FIGURES,)
    scratch: Floats
    memo_key: Hashes
    memo: Floats
    hash_keys: Hashes  # (devices + KEYS + 1,): factors of a half-layer's hash; last, the state of `draw`
    log: Ints  # (changes, devices + 2): what `rollback` restores, the half's number last
    log_terms: Floats  # (changes, 5)
    edits: Ints  # (changes, devices + 2): a move in the making, the half's number last
    size: Ints  # (2,): changes in the log, edits
    moves: Ints  # (moves of one half, MOVE_COLUMNS): those that a descent tries next
    kept: Ints  # (halves, devices + 1): places to come back to
    priced: Floats  # (WEIGHTS,): the weights that hold at the moment


def new_state(problem: Problem, seed: int = 1) -> State:
    """An empty state, to be filled by `load`; `seed` is that of its random numbers."""
    halves, columns = problem.old.shape
    devices = columns - 1
    memo = MEMO if problem.placed else FIRST_MEMO
    random = np.random.default_rng(HASH_SEED).integers(1, 2**62, devices + KEYS + 1, dtype=np.uint64)
    hash_keys = random * np.uint64(2) + np.uint64(1)
    hash_keys[-1] = seed * 2654435761 + 88172645463325252  # never 0, which xorshift does not leave
    return State(
        places=np.zeros((halves, columns), np.int64),
        terms=np.zeros((3, halves + 1)),
        sums=np.zeros((2 * SUM_ROWS, devices), np.int64),
        carried=np.zeros((2, len(problem.byte_s)), np.int64),
        figures=np.zeros(FIGURES),
        scratch=scratch_for(problem.tables),
        memo_key=np.zeros(memo, np.uint64),
        memo=np.zeros(memo),
        hash_keys=hash_keys,
        log=np.zeros((2 * halves, columns + 1), np.int64),
        log_terms=np.zeros((2 * halves, 5)),
        edits=np.zeros((2 * halves, columns + 1), np.int64),
        size=np.zeros(2, np.int64),
        moves=np.zeros((problem.worth_trying * (9 + 3 * columns) + 3 * halves + 2, MOVE_COLUMNS), np.int64),
        kept=np.zeros((halves, columns), np.int64),
        priced=np.zeros(WEIGHTS),
    )


@inlined
def copy_row(target: Ints, source: Ints, columns: int) -> None:
    """Copy the first columns of one row into another; slices would need an allocation."""
    for column in range(columns):
        target[column] = source[column]


@inlined
def copy_places(target: Ints, source: Ints) -> None:
    """Copy all counts and targets."""
    for half in range(len(source)):
        copy_row(target[half], source[half], source.shape[1])


@compiled
def load(p: Problem, s: State, places: Ints, later: bool) -> None:
    """Make the state that of these places; `later` says whether the time after the interval counts."""
    s.sums[:] = 0
    s.carried[:] = 0
    copy_places(s.places, places)
    s.size[0] = 0
    for half in range(len(s.places)):
        _account(p, s, half, 1)
        _predict(p, s, half, later)
    add_up(s)


@inlined
def add_up(s: State) -> None:
    """Add the terms up anew: sums that are kept up to date gather rounding errors."""
    for case in range(2):
        total = 0.0
        for half in range(s.terms.shape[1]):
            total += s.terms[case, half]
        s.figures[SUMS + case] = total


kind_at = inlined(kind_of)


@inlined
def half_term(p: Problem, s: State, kind: int, holder: int, place: Ints, case: int) -> float:
    """Seconds of one half-layer, from the memo where it is remembered by its hash."""
    devices = len(place) - 1
    target = place[devices]
    keys = s.hash_keys
    key = keys[devices + HOLDER_KEY] * np.uint64(holder) + keys[devices + TARGET_KEY] * np.uint64(target)
    key += keys[devices + KIND_KEY] * np.uint64(kind + 1) + keys[devices + CASE_KEY] * np.uint64(case)
    if p.units[kind]:
        for device in range(devices):
            key += keys[device] * np.uint64(place[device])
    key ^= key >> np.uint64(29)
    key *= np.uint64(0xBF58476D1CE4E5B9)
    key ^= key >> np.uint64(32)
    where = key & np.uint64(len(s.memo) - 1)
    if s.memo_key[where] == key:
        return s.memo[where]
    seconds = half_seconds(p.tables, case, kind, holder, target, place, place, s.scratch)
    s.memo_key[where] = key
    s.memo[where] = seconds
    return seconds


@inlined
def _predict(p: Problem, s: State, half: int, later: bool) -> None:
    holder = s.places[half - 1, -1] if half > 0 else p.source
    kind = kind_at(half, len(s.places))
    for case in range(2 if later else 1):
        seconds = half_term(p, s, kind, holder, s.places[half], case)
        s.figures[SUMS + case] += seconds - s.terms[case, half]
        s.terms[case, half] = seconds


@inlined
def _flow(p: Problem, s: State, half: int, source: int, target: int, blocks: int, column: int) -> None:
    """Count the migration of some blocks of a half; a negative number of blocks takes it back."""
    kind = kind_at(half, len(s.places))
    s.sums[INCOMING, target] += blocks * p.sizes[NOW, kind, column]
    s.sums[ARRIVALS, target] += blocks
    s.sums[LOADED, target] += blocks * p.sizes[LOAD, kind, column]
    sent = blocks * p.sizes[SENT, kind, column]
    if p.tables.routed:
        first = p.tables.path_start[source, target]
        for step in range(first, first + p.tables.path_length[source, target]):
            s.carried[0, p.tables.path_hops[step]] += sent
    else:
        s.carried[0, source] += sent
        s.carried[0, s.sums.shape[1] + target] += sent
    s.terms[PATH_DELAY, half] = max(s.terms[PATH_DELAY, half], p.path_delay_s[source, target])


@inlined
def _account(p: Problem, s: State, half: int, sign: int) -> None:
    """Add the memory and the migration of a half as it is now, or with `sign` -1 take them away."""
    kind = kind_at(half, len(s.places))
    place, devices = s.places[half], s.sums.shape[1]
    target = place[devices]
    many = p.units[kind] > 0
    if many:
        for device in range(devices):
            if place[device]:
                s.sums[AT_INTERVAL_END, device] += sign * place[device] * p.sizes[INTERVAL_END, kind, UNIT]
                s.sums[AT_RUN_END, device] += sign * place[device] * p.sizes[RUN_END, kind, UNIT]
    s.sums[AT_INTERVAL_END, target] += sign * p.sizes[INTERVAL_END, kind, TARGET]
    s.sums[AT_RUN_END, target] += sign * p.sizes[RUN_END, kind, TARGET]
    if not p.placed:
        return
    s.terms[PATH_DELAY, half] = 0.0
    before = p.old[half]
    if before[devices] != target:
        _flow(p, s, half, before[devices], target, sign, TARGET)
    if not many:
        return
    differs = 0
    for device in range(devices):
        differs |= place[device] ^ before[device]
    if differs == 0:
        return
    turn, spare = -1, 0
    for number in range(devices):
        device = p.devices[RECEIVERS, number]
        wanted = place[device] - before[device]
        while wanted > 0:
            while spare <= 0:
                turn += 1
                source = p.devices[SENDERS, turn]
                spare = before[source] - place[source]
            blocks = min(wanted, spare)
            _flow(p, s, half, p.devices[SENDERS, turn], device, sign * blocks, UNIT)
            wanted -= blocks
            spare -= blocks


@inlined
def begin(s: State) -> None:
    """Begin a change: `rollback` comes back to here."""
    s.size[0] = 0
    for row in range(SUM_ROWS):
        copy_row(s.sums[SUM_ROWS + row], s.sums[row], s.sums.shape[1])
    copy_row(s.carried[1], s.carried[0], s.carried.shape[1])
    for case in range(2):
        s.figures[SUMS_BEFORE + case] = s.figures[SUMS + case]


@inlined
def set_half(p: Problem, s: State, half: int, place: Ints, later: bool) -> None:
    """Give a half these counts and this target, and predict the half-layers that change with it."""
    note, columns = s.size[0], s.places.shape[1]
    following = half + 1
    copy_row(s.log[note], s.places[half], columns)
    s.log[note, columns] = half
    s.log_terms[note, 0], s.log_terms[note, 1] = s.terms[THIS, half], s.terms[LATER, half]
    s.log_terms[note, 2], s.log_terms[note, 3] = s.terms[THIS, following], s.terms[LATER, following]
    s.log_terms[note, 4] = s.terms[PATH_DELAY, half]
    s.size[0] = note + 1
    moved = s.places[half, columns - 1] != place[columns - 1]
    for sign in (-1, 1):
        if sign > 0:
            copy_row(s.places[half], place, columns)
        _account(p, s, half, sign)
    for changed in range(half, half + 1 + moved):
        _predict(p, s, changed, later)


@inlined
def rollback(s: State) -> None:
    """Take back every change since `begin`."""
    columns = s.places.shape[1]
    for note in range(s.size[0] - 1, -1, -1):
        half = s.log[note, columns]
        copy_row(s.places[half], s.log[note], columns)
        s.terms[THIS, half], s.terms[LATER, half] = s.log_terms[note, 0], s.log_terms[note, 1]
        s.terms[THIS, half + 1], s.terms[LATER, half + 1] = s.log_terms[note, 2], s.log_terms[note, 3]
        s.terms[PATH_DELAY, half] = s.log_terms[note, 4]
    for row in range(SUM_ROWS):
        copy_row(s.sums[row], s.sums[SUM_ROWS + row], s.sums.shape[1])
    copy_row(s.carried[0], s.carried[1], s.carried.shape[1])
    s.size[0] = 0
    for case in range(2):
        s.figures[SUMS + case] = s.figures[SUMS_BEFORE + case]


@inlined
def migration(p: Problem, s: State) -> float:
    """Seconds from prepare to commit of what the state moves."""
    busiest = 0.0
    moved = 0
    for device in range(s.sums.shape[1]):
        moved += s.sums[ARRIVALS, device]
        busiest = max(busiest, s.sums[LOADED, device] * p.load_s[device])
    if moved == 0:
        return 0.0
    for link in range(len(p.byte_s)):
        busiest = max(busiest, s.carried[0, link] * p.byte_s[link])
    delay = 0.0
    for half in range(s.terms.shape[1]):
        delay = max(delay, s.terms[PATH_DELAY, half])
    return busiest + delay + p.handshake_s


@inlined
def _excess(p: Problem, bytes_too_many: int) -> int:
    """The bytes too many and the grain, without which a few bytes would not matter."""
    return bytes_too_many + p.grain if bytes_too_many > 0 else 0


@inlined
def judge(p: Problem, s: State, weights: Floats) -> float:
    """The objective, of which less is better; its parts go to `figures`."""
    latency = p.around_s + s.figures[SUMS + THIS]
    later = p.around_s + s.figures[SUMS + LATER]
    over = 0
    over_run = 0
    for device in range(s.sums.shape[1]):
        room = p.devices[ROOM, device]
        over += _excess(p, s.sums[AT_INTERVAL_END, device] - room)
        over_run += _excess(p, s.sums[AT_RUN_END, device] - p.devices[LATER_ROOM, device])
        if s.sums[ARRIVALS, device]:
            over += _excess(p, p.devices[OLD_NOW, device] + s.sums[INCOMING, device] - room)
    moving = migration(p, s) if p.placed else 0.0
    interval = moving + p.tokens * latency
    s.figures[MIGRATION] = moving
    s.figures[INTERVAL], s.figures[LATER_LATENCY] = interval, later
    s.figures[TOO_MANY], s.figures[TOO_MANY_RUN] = over, over_run
    value = interval + weights[OVERFULL] * over + weights[RUN_OVERFULL] * over_run
    value += weights[LATER_WEIGHT] * later
    return value + weights[OVER_CAP] * max(0.0, interval - weights[CAP])


@compiled
def judged(p: Problem, s: State, weights: Floats) -> float:
    """`judge`, to be called from outside."""
    return judge(p, s, weights)
