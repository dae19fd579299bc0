"""A token's way through the devices, compiled: the shortest one under prices of memory, and mixtures of such ways.

The half from one device to another costs the same wherever it is on the way. So the best units are sought for each
pair of holder and target, and a dynamic programme over the targets finds the best way of all. Where memory is roomy
that is next to the optimum, which single moves may miss because they would have to change two layers at once. Where it
is not, the bytes of devices that are too full get a price, again and again, and the ways found for the different prices
are mixed: the first layers go one way and the others another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.placement.annealing.problem import HEAD, HOME, LATER_ROOM, RUN, SHORT, TARGET, UNIT, Problem
from testbed.placement.annealing.state import (
    AT_RUN,
    INTERVAL,
    TOO_MANY,
    State,
    copy_places,
    copy_row,
    half_term,
    judge,
    load,
)
from testbed.placement.cost.kernel import Floats, Ints, compiled, inlined

MOST_TARGETS = 10  # devices where halves end, fastest first, and the source
ROUNDS = 12  # of prices
STEP = 0.5  # of a price: this part of what the devices' bytes cost on average, at first
GENERATIONS, POOL = 4, 8  # of mixtures, and how many of them are kept from each
MIXING = 4  # times the looks of the ways that mixing them may take
Valued = tuple[float, Ints]  # the objective, and the place


class Ways(NamedTuple):
    """Working space of one search."""

    targets: Ints  # (targets,): devices
    rows: Ints  # (2, targets, targets, devices + 1): the best units from holder to target, of attention and FFN
    head: Ints  # (devices + 1,): units of the LM head
    trial: Ints  # (devices + 1,)
    cost: Floats  # (2, targets, targets): seconds and prices of a token
    best: Floats  # (halves + 1, targets)
    came: Ints  # (halves + 1, targets): the target before
    prices: Floats  # (devices,): seconds of a token per byte
    left: Ints  # (1,): half-layers that may still be looked at


def best_ways(p: Problem, s: State, weights: Floats, looks: int, most: int) -> tuple[list[Ints], bool]:
    """Up to `most` ways and mixtures, best first, when about `looks` half-layers may be looked at; and whether the
    first is the shortest of all, searched to the end and with room for it."""
    devices, halves = p.devices.shape[1], len(p.old)
    chosen = p.devices[SHORT, : min(p.worth_trying, MOST_TARGETS)].tolist()
    targets = np.array([*(device for device in chosen if device != p.source), p.source], np.int64)
    pairs = 2, len(targets), len(targets)
    ways = Ways(
        targets,
        np.zeros((*pairs, devices + 1), np.int64),
        np.zeros(devices + 1, np.int64),
        np.zeros(devices + 1, np.int64),
        np.zeros(pairs),
        np.zeros((halves + 1, len(targets))),
        np.zeros((halves + 1, len(targets)), np.int64),
        np.zeros(devices),
        np.array([looks], np.int64),
    )
    place = np.zeros_like(p.old)
    pool: list[Valued] = []
    for turn in range(ROUNDS):
        value = _way(p, s, weights, ways, place, turn)
        if not any(np.array_equal(place, other) for _, other in pool):
            pool.append((value, place.copy()))
        over = s.sums[AT_RUN] - p.devices[LATER_ROOM]
        if turn == 0 and (over <= 0).all() and s.figures[TOO_MANY] == 0:
            return [place], bool(ways.left[0] > 0)
        if ways.left[0] <= 0:
            break
        unit = STEP / (1 + turn / 4) * s.figures[INTERVAL] / p.tokens / max(1, s.sums[AT_RUN].sum())
        np.maximum(0.0, ways.prices + unit * over / np.maximum(1, p.devices[LATER_ROOM]), out=ways.prices)
    if len(pool) > 1:
        pool = _mixed(p, s, weights, pool, MIXING * looks)
    return [place for _, place in sorted(pool, key=_value)[:most]], False


def _value(one: Valued) -> float:
    return one[0]


def _mixed(p: Problem, s: State, weights: Floats, pool: list[Valued], looks: int) -> list[Valued]:
    """The best mixtures, of the ways first and then of those with each other, as far as `looks` go."""
    whole = pool
    for _ in range(GENERATIONS):
        found = {one[1].tobytes(): one for one in pool}
        for _, first in pool:
            for _, second in whole:
                for a, b in (first, second), (second, first):
                    looks -= len(a) ** 2
                    if looks < 0:
                        break
                    place = np.empty_like(a)
                    value = _mix(p, s, weights, a, b, place)
                    found.setdefault(place.tobytes(), (value, place))
        pool = sorted(found.values(), key=_value)[:POOL]
    return pool


@compiled
def _mix(p: Problem, s: State, weights: Floats, first: Ints, second: Ints, place: Ints) -> float:
    """Where to change over from one way to the other; `place` is the result."""
    least = np.inf
    cut = 0
    copy_places(place, second)
    for half in range(len(place) - 2):
        copy_row(place[half], first[half], place.shape[1])
        load(p, s, place, False)
        value = judge(p, s, weights)
        if value < least:
            least = value
            cut = half
    for half in range(cut + 1, len(place) - 2):
        copy_row(place[half], second[half], place.shape[1])
    return least


@compiled
def _way(p: Problem, s: State, weights: Floats, ways: Ways, place: Ints, turn: int) -> float:
    """The shortest way under the present prices, into `place`; its objective, and the state is loaded with it."""
    targets, columns, halves = ways.targets, place.shape[1], len(place)
    count = len(targets)
    source = count - 1
    for kind in range(2):
        for i in range(count):
            for j in range(count):
                row = ways.rows[kind, i, j]
                ways.cost[kind, i, j] = _units(p, s, ways, kind, targets[i], targets[j], row, turn == 0)
    if p.units[HEAD]:
        _units(p, s, ways, HEAD, p.source, p.source, ways.head, turn == 0)
    for j in range(count):
        ways.best[0, j] = 0.0 if j == source else np.inf
    for half in range(halves - 2):
        for j in range(count):
            ways.best[half + 1, j] = np.inf
            for i in range(count):
                seconds = ways.best[half, i] + ways.cost[half % 2, i, j]
                if seconds < ways.best[half + 1, j]:
                    ways.best[half + 1, j] = seconds
                    ways.came[half + 1, j] = i
    at = source
    least = np.inf
    for column in range(columns):
        ways.trial[column] = 0
    ways.trial[columns - 1] = p.source
    for j in range(count):
        seconds = ways.best[halves - 2, j] + half_term(p, s, HOME, targets[j], ways.trial, 0)
        if seconds < least:
            least = seconds
            at = j
    copy_row(place[halves - 2], ways.trial, columns)
    copy_row(place[halves - 1], ways.head if p.units[HEAD] else ways.trial, columns)
    for half in range(halves - 3, -1, -1):
        before = ways.came[half + 1, at]
        copy_row(place[half], ways.rows[half % 2, before, at], columns)
        at = before
    load(p, s, place, False)
    return judge(p, s, weights)


@inlined
def _priced(p: Problem, s: State, ways: Ways, kind: int, holder: int, row: Ints) -> float:
    """Seconds and prices of one half."""
    ways.left[0] -= 1
    devices = len(row) - 1
    value = half_term(p, s, kind, holder, row, 0)
    value += ways.prices[row[devices]] * p.sizes[RUN, kind, TARGET]
    for device in range(devices):
        if row[device]:
            value += ways.prices[device] * row[device] * p.sizes[RUN, kind, UNIT]
    return value


@compiled
def _units(p: Problem, s: State, ways: Ways, kind: int, holder: int, target: int, row: Ints, anew: bool) -> float:
    """The best units of a half found by shifting them, from all on one device or from what `row` has; the cost."""
    devices = len(row) - 1
    units = p.units[kind]
    row[devices] = target
    if units == 0:
        return _priced(p, s, ways, kind, holder, row)
    trial = ways.trial
    best = np.inf if anew else _priced(p, s, ways, kind, holder, row)
    for number in range(p.worth_trying):
        copy_row(trial, row, devices + 1)
        for device in range(devices):
            trial[device] = 0
        trial[p.devices[SHORT, number]] = units
        value = _priced(p, s, ways, kind, holder, trial)
        if value < best:
            best = value
            copy_row(row, trial, devices + 1)
    quiet, turn = 0, 0
    while quiet < p.worth_trying and ways.left[0] > 0:
        b = p.devices[SHORT, turn % p.worth_trying]
        turn += 1
        quiet += 1
        for a in range(devices):
            for size in (1, row[a] // 2, row[a]):
                if a == b or size == 0 or row[a] < size:
                    continue
                row[a] -= size
                row[b] += size
                value = _priced(p, s, ways, kind, holder, row)
                if value < best * (1 - 1e-9):
                    best = value
                    quiet = 0
                else:
                    row[a] += size
                    row[b] -= size
    return best
