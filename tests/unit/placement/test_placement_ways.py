"""Ways through the devices: the shortest where memory is roomy, whole placements everywhere, and better when mixed."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from test_placement_chains import judge
from test_placement_headroom import instance, vectors

from testbed.placement.annealing.problem import Problem, kind_of, make_problem
from testbed.placement.annealing.search import Seeker
from testbed.placement.annealing.shortest_paths import best_ways
from testbed.placement.annealing.state import TOO_MANY
from testbed.placement.cost.model import cost_model

LOOKS = 100_000


def searched(layers: int, heads: int, devices: int, tight: float, shards: int, seed: int) -> tuple[Problem, Seeker]:
    model = cost_model(instance(seed, layers, heads, devices, tight, shards))
    problem = make_problem(model, None, model)
    seeker = Seeker(problem, seed)
    together = np.zeros_like(problem.old)
    together[:, -1] = problem.source
    together[:, problem.source] = [problem.units[kind_of(half, len(together))] for half in range(len(together))]
    seeker._weigh(together)
    return problem, seeker


def shortest(problem: Problem, seeker: Seeker) -> float:
    """The best of all placements there are."""
    devices = problem.devices.shape[1]
    halves = len(problem.old) - 2
    rows = [
        [(*counts, target) for counts in vectors(int(problem.units[half % 2]), devices) for target in range(devices)]
        for half in range(halves)
    ]
    place = np.zeros_like(problem.old)
    place[-2:, -1] = problem.source
    best = np.inf
    for chosen in product(*rows):
        place[:halves] = chosen
        best = min(best, judge(problem, seeker, place))
    return best


@pytest.mark.parametrize(("layers", "heads", "shards"), [(2, 2, 1), (1, 4, 4), (1, 6, 1)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_placement_is_better_than_the_shortest_way_where_memory_is_roomy(layers, heads, shards, seed):
    problem, seeker = searched(layers, heads, 3, 30.0, shards, seed)
    ways, settled = best_ways(problem, seeker.state, seeker.weights, LOOKS, 6)
    assert settled
    assert judge(problem, seeker, ways[0]) == pytest.approx(shortest(problem, seeker), rel=1e-9)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("looks", [0, 1000, LOOKS])
def test_every_way_places_every_unit_once_however_few_looks_there_are(shards, looks):
    problem, seeker = searched(4, 4, 5, 1.4, shards, 1)
    ways, settled = best_ways(problem, seeker.state, seeker.weights, looks, 6)
    assert not settled
    assert 1 <= len(ways) <= 6
    for place in ways:
        kinds = [kind_of(half, len(place)) for half in range(len(place))]
        assert place[:, :-1].sum(axis=1).tolist() == problem.units[kinds].tolist()
        assert (place >= 0).all()
        assert (place[-2:, -1] == problem.source).all()
    again, _ = best_ways(problem, seeker.state, seeker.weights, looks, 6)
    assert all(np.array_equal(one, other) for one, other in zip(ways, again, strict=True))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_prices_and_mixing_fill_devices_less_over_than_the_shortest_way(seed):
    problem, seeker = searched(8, 4, 4, 1.4, 4, seed)
    over = []
    for looks in (0, LOOKS):
        judge(problem, seeker, best_ways(problem, seeker.state, seeker.weights, looks, 1)[0][0])
        over.append(seeker.state.figures[TOO_MANY])
    assert over[1] < over[0]


def test_nothing_is_left_to_compile_after_the_warm_up():
    program = """
from testbed.placement.annealing import pipelines as chains
from testbed.placement.annealing import moves
from testbed.placement.annealing import search as seeking
from testbed.placement.annealing import state
from testbed.placement.annealing import shortest_paths as ways
seeking.warm_up()
for function in chains._search, moves.search, state.load, state.judged, ways._way, ways._mix:
    assert len(function.signatures) == 1, function
"""
    subprocess.run([sys.executable, "-c", program], check=True)
