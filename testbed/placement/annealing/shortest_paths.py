"""Shortest paths of a token through the devices, compiled: under Lagrangian prices of memory, and recombined.

A half from one device to another costs the same wherever it is in the model. So the best spread of its units is sought
once for each pair of holder and target. Then the cheapest path is a shortest path in a layered graph, whose layers are
the halves and whose nodes are their targets, found by dynamic programming (Bellman). Where memory is roomy it is nearly
the best placement. Single moves may miss it, because they would have to change two layers at once.

Where memory is short, this is a Lagrangian relaxation: bytes of devices that are too full get a price, prices follow
subgradient steps, and each round gives one more path. Paths found at different prices are recombined by one-point
crossover: the first layers follow one path and the others another.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.placement.annealing.problem import (
    LATER_ROOM,
    LM_HEAD,
    RETURN,
    RUN_END,
    SHORTLIST,
    TARGET,
    UNIT,
    Problem,
)
from testbed.placement.annealing.state import (
    AT_RUN_END,
    INTERVAL,
    TOO_MANY,
    State,
    copy_places,
    copy_row,
    half_term,
    judge,
    load,
)
from testbed.placement.annealing.tuning import (
    CROSSOVER_SHARE,
    GENERATIONS,
    LEAST_PRICED_GAIN,
    PATHS,
    POOL,
    PRICE_DECAY,
    PRICE_ROUNDS,
    PRICE_STEP,
    TARGETS,
)
from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.machine_code import called, compiled, inlined

Valued = tuple[float, Ints]  # the objective, and the places


class Graph(NamedTuple):
    """The layered graph and the working space of one search for paths."""

    targets: Ints  # (targets,): devices
    rows: Ints  # (2, targets, targets, devices + 1): the best units from holder to target, of attention and FFN
    lm_head: Ints  # (devices + 1,): units of the LM head
    trial: Ints  # (devices + 1,)
    cost: Floats  # (2, targets, targets): seconds and prices of a token
    best: Floats  # (halves + 1, targets): cost of the cheapest path to each node
    came: Ints  # (halves + 1, targets): the target before
    prices: Floats  # (devices,): seconds of a token per byte
    left: Ints  # (1,): half-layers that may still be computed


def shortest_paths(p: Problem, s: State, weights: Floats, effort: int, most: int = PATHS) -> tuple[list[Ints], bool]:
    """Up to `most` paths and crossovers of paths as places, best first; and whether the first one settles the matter.

    It does if it is the shortest path without prices, searched to the end, and fits. About `effort` half-layers are
    computed.
    """
    graph = _graph(p, effort)
    places = np.zeros_like(p.old)
    pool: list[Valued] = []
    for turn in range(PRICE_ROUNDS):
        value = _shortest_path(p, s, weights, graph, places, turn)
        if not any(np.array_equal(places, other) for _, other in pool):
            pool.append((value, places.copy()))
        over = s.sums[AT_RUN_END] - p.devices[LATER_ROOM]
        if turn == 0 and (over <= 0).all() and s.figures[TOO_MANY] == 0:
            return [places], bool(graph.left[0] > 0)
        if graph.left[0] <= 0:
            break
        step = PRICE_STEP / (1 + turn / PRICE_DECAY) * s.figures[INTERVAL] / p.tokens / max(1, s.sums[AT_RUN_END].sum())
        np.maximum(0.0, graph.prices + step * over / np.maximum(1, p.devices[LATER_ROOM]), out=graph.prices)
    if len(pool) > 1:
        pool = _recombined(p, s, weights, pool, CROSSOVER_SHARE * effort)
    return [places for _, places in sorted(pool, key=_value)[:most]], False


def _graph(p: Problem, effort: int) -> Graph:
    devices, halves = p.devices.shape[1], len(p.old)
    chosen = p.devices[SHORTLIST, : min(p.worth_trying, TARGETS)].tolist()
    targets = np.array([*(device for device in chosen if device != p.source), p.source], np.int64)
    pairs = 2, len(targets), len(targets)
    return Graph(
        targets,
        np.zeros((*pairs, devices + 1), np.int64),
        np.zeros(devices + 1, np.int64),
        np.zeros(devices + 1, np.int64),
        np.zeros(pairs),
        np.zeros((halves + 1, len(targets))),
        np.zeros((halves + 1, len(targets)), np.int64),
        np.zeros(devices),
        np.array([effort], np.int64),
    )


def _value(one: Valued) -> float:
    return one[0]


def _recombined(p: Problem, s: State, weights: Floats, pool: list[Valued], effort: int) -> list[Valued]:
    """The best crossovers, of the paths first and then of those with the paths, as far as `effort` goes."""
    paths = pool
    for _ in range(GENERATIONS):
        found = {one[1].tobytes(): one for one in pool}
        for _, first in pool:
            for _, second in paths:
                for a, b in (first, second), (second, first):
                    effort -= len(a) ** 2
                    if effort < 0:
                        break
                    places = np.empty_like(a)
                    value = _crossover(p, s, weights, a, b, places)
                    found.setdefault(places.tobytes(), (value, places))
        pool = sorted(found.values(), key=_value)[:POOL]
    return pool


@compiled
def _crossover(p: Problem, s: State, weights: Floats, first: Ints, second: Ints, places: Ints) -> float:
    """The best one-point crossover of two paths goes to `places`; its objective is returned."""
    least = np.inf
    cut = 0
    copy_places(places, second)
    for half in range(len(places) - 2):
        copy_row(places[half], first[half], places.shape[1])
        load(p, s, places, False)
        value = judge(p, s, weights)
        if value < least:
            least = value
            cut = half
    for half in range(cut + 1, len(places) - 2):
        copy_row(places[half], second[half], places.shape[1])
    return least


@compiled
def _shortest_path(p: Problem, s: State, weights: Floats, graph: Graph, places: Ints, turn: int) -> float:
    """The shortest path at the present prices goes to `places` and to the state; its objective is returned."""
    targets, columns, halves = graph.targets, places.shape[1], len(places)
    count = len(targets)
    source = count - 1
    for kind in range(2):
        for i in range(count):
            for j in range(count):
                row = graph.rows[kind, i, j]
                graph.cost[kind, i, j] = _best_units(p, s, graph, kind, targets[i], targets[j], row, turn == 0)
    if p.units[LM_HEAD]:
        _best_units(p, s, graph, LM_HEAD, p.source, p.source, graph.lm_head, turn == 0)
    for j in range(count):
        graph.best[0, j] = 0.0 if j == source else np.inf
    for half in range(halves - 2):
        for j in range(count):
            graph.best[half + 1, j] = np.inf
            for i in range(count):
                seconds = graph.best[half, i] + graph.cost[half % 2, i, j]
                if seconds < graph.best[half + 1, j]:
                    graph.best[half + 1, j] = seconds
                    graph.came[half + 1, j] = i
    at = source
    least = np.inf
    for column in range(columns):
        graph.trial[column] = 0
    graph.trial[columns - 1] = p.source
    for j in range(count):
        seconds = graph.best[halves - 2, j] + half_term(p, s, RETURN, targets[j], graph.trial, 0)
        if seconds < least:
            least = seconds
            at = j
    copy_row(places[halves - 2], graph.trial, columns)
    copy_row(places[halves - 1], graph.lm_head if p.units[LM_HEAD] else graph.trial, columns)
    for half in range(halves - 3, -1, -1):
        before = graph.came[half + 1, at]
        copy_row(places[half], graph.rows[half % 2, before, at], columns)
        at = before
    load(p, s, places, False)
    return judge(p, s, weights)


@inlined
def _priced(p: Problem, s: State, graph: Graph, kind: int, holder: int, row: Ints) -> float:
    """Seconds and prices of one half for one token."""
    graph.left[0] -= 1
    devices = len(row) - 1
    value = half_term(p, s, kind, holder, row, 0)
    value += graph.prices[row[devices]] * p.sizes[RUN_END, kind, TARGET]
    for device in range(devices):
        if row[device]:
            value += graph.prices[device] * row[device] * p.sizes[RUN_END, kind, UNIT]
    return value


@called
def _best_units(
    p: Problem, s: State, graph: Graph, kind: int, holder: int, target: int, row: Ints, anew: bool
) -> float:
    """The best units of a half that a local search of shifts finds go to `row`; their cost is returned.

    It begins with the best of these: all units on one device, and, unless `anew`, the units of `row`.
    """
    devices = len(row) - 1
    units = p.units[kind]
    row[devices] = target
    if units == 0:
        return _priced(p, s, graph, kind, holder, row)
    trial = graph.trial
    best = np.inf if anew else _priced(p, s, graph, kind, holder, row)
    for number in range(p.worth_trying):
        copy_row(trial, row, devices + 1)
        for device in range(devices):
            trial[device] = 0
        trial[p.devices[SHORTLIST, number]] = units
        value = _priced(p, s, graph, kind, holder, trial)
        if value < best:
            best = value
            copy_row(row, trial, devices + 1)
    quiet, turn = 0, 0
    while quiet < p.worth_trying and graph.left[0] > 0:
        b = p.devices[SHORTLIST, turn % p.worth_trying]
        turn += 1
        quiet += 1
        for a in range(devices):
            for size in (1, row[a] // 2, row[a]):
                if a == b or size == 0 or row[a] < size:
                    continue
                row[a] -= size
                row[b] += size
                value = _priced(p, s, graph, kind, holder, row)
                if value < best * (1 - LEAST_PRICED_GAIN):
                    best = value
                    quiet = 0
                else:
                    row[a] += size
                    row[b] -= size
    return best
