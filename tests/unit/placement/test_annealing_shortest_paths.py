"""Shortest paths: the best placement where memory is roomy, whole placements everywhere, and better when recombined."""

from itertools import product

import numpy as np
import pytest
from search_cases import Searched, instance, searched, vectors

from testbed.placement.annealing.problem import kind_of
from testbed.placement.annealing.shortest_paths import shortest_paths
from testbed.placement.annealing.state import TOO_MANY

EFFORT = 100_000


def priced(layers: int, heads: int, devices: int, tight: float, shards: int, seed: int) -> Searched:
    """An instance ready to be searched, with the price of overfilling as everything at the source sets it."""
    found = searched(instance(seed, layers, heads, devices, tight, shards), seed)
    together = np.zeros_like(found.problem.old)
    together[:, -1] = source = found.problem.source
    together[:, source] = [found.problem.units[kind_of(half, len(together))] for half in range(len(together))]
    found.price_from(together)
    return found


def shortest(case: Searched) -> float:
    """The best of all placements there are."""
    devices = case.problem.devices.shape[1]
    halves = len(case.problem.old) - 2
    rows = [
        [(*counts, to) for counts in vectors(int(case.problem.units[half % 2]), devices) for to in range(devices)]
        for half in range(halves)
    ]
    places = np.zeros_like(case.problem.old)
    places[-2:, -1] = case.problem.source
    best = np.inf
    for chosen in product(*rows):
        places[:halves] = chosen
        best = min(best, case.judge(places))
    return best


@pytest.mark.parametrize(("layers", "heads", "shards"), [(2, 2, 1), (1, 4, 4), (1, 6, 1)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_placement_is_better_than_the_shortest_path_where_memory_is_roomy(layers, heads, shards, seed):
    case = priced(layers, heads, 3, 30.0, shards, seed)
    paths, settled = shortest_paths(*case, EFFORT)
    assert settled
    assert case.judge(paths[0]) == pytest.approx(shortest(case), rel=1e-9)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("effort", [0, 1000, EFFORT])
def test_every_path_places_every_unit_once_however_little_effort_there_is(shards, effort):
    case = priced(4, 4, 5, 1.4, shards, 1)
    paths, settled = shortest_paths(*case, effort)
    assert not settled
    assert 1 <= len(paths) <= 6
    for places in paths:
        kinds = [kind_of(half, len(places)) for half in range(len(places))]
        assert places[:, :-1].sum(axis=1).tolist() == case.problem.units[kinds].tolist()
        assert (places >= 0).all()
        assert (places[-2:, -1] == case.problem.source).all()
    again, _ = shortest_paths(*case, effort)
    assert all(np.array_equal(one, other) for one, other in zip(paths, again, strict=True))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_prices_and_crossover_fill_devices_less_over_than_the_shortest_path(seed):
    case = priced(8, 4, 4, 1.4, 4, seed)
    over = []
    for effort in (0, EFFORT):
        case.judge(shortest_paths(*case, effort, 1)[0][0])
        over.append(case.state.figures[TOO_MANY])
    assert over[1] < over[0]
