"""Chains of devices, filled one after the other: they are whole placements, and the best order is found."""

from itertools import permutations

import numpy as np
import pytest
from test_placement_headroom import instance

from testbed.placement.annealing.pipelines import best_chains, tries_of
from testbed.placement.annealing.problem import (
    END,
    LATER_ROOM,
    RUN,
    SHORT,
    TARGET,
    UNIT,
    Problem,
    kind_of,
    make_problem,
)
from testbed.placement.annealing.search import Seeker
from testbed.placement.annealing.starts import filled
from testbed.placement.annealing.state import judged, load
from testbed.placement.cost.model import cost_model


def searched(shards: int, seed: int) -> tuple[Problem, Seeker]:
    """A tight instance of five devices, ready to be searched, with the price of overfilling set."""
    model = cost_model(instance(seed, 4, 4, 5, 1.4, shards))
    problem = make_problem(model, None, model)
    seeker = Seeker(problem, seed)
    seeker._weigh(filled(problem, problem.devices[SHORT, :5].tolist(), END))
    return problem, seeker


def judge(problem: Problem, seeker: Seeker, place: np.ndarray) -> float:
    load(problem, seeker.state, place, False)
    return judged(problem, seeker.state, seeker.weights)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_chain_places_every_unit_and_fills_no_device_over_but_the_last(shards: int, seed: int) -> None:
    problem, seeker = searched(shards, seed)
    for place in best_chains(problem, seeker.state, seeker.weights, 50):
        kinds = [kind_of(half, len(place)) for half in range(len(place))]
        assert [place[half, :-1].sum() for half in range(len(place))] == problem.units[kinds].tolist()
        assert (place >= 0).all()
        judge(problem, seeker, place)
        need = np.zeros(5, np.int64)
        for half, kind in enumerate(kinds):
            need += place[half, :-1] * problem.sizes[END, kind, UNIT]
            need[place[half, -1]] += problem.sizes[END, kind, TARGET]
        assert (need > problem.devices[0]).sum() <= 1


def chain(problem: Problem, order: tuple[int, ...]) -> np.ndarray:
    """Whole halves in turn, each on the present device if there is room at the run's end, else on the next one."""
    place = np.zeros_like(problem.old)
    rest, room = list(order), problem.devices[LATER_ROOM].copy()
    for half in range(len(place) - 2):
        kind = kind_of(half, len(place))
        need = problem.units[kind] * problem.sizes[RUN, kind, UNIT] + problem.sizes[RUN, kind, TARGET]
        while room[rest[0]] < need and len(rest) > 1:
            rest.pop(0)
        room[rest[0]] -= need
        place[half, rest[0]] = problem.units[kind]
        place[half, -1] = rest[0]
    place[-2:, -1] = problem.source
    return place


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_order_of_whole_halves_is_better_than_the_best_chain(seed: int) -> None:
    problem, seeker = searched(4, seed)
    best = min(judge(problem, seeker, place) for place in best_chains(problem, seeker.state, seeker.weights, 400))
    orders = permutations(problem.devices[SHORT, :5].tolist())
    assert best <= min(judge(problem, seeker, chain(problem, order)) for order in orders) * (1 + 1e-9)


def test_many_devices_and_layers_get_fewer_orders_but_at_least_one() -> None:
    assert tries_of(2_500_000, 26) == 1000
    assert 1 <= tries_of(50_000, 66) < 100
    assert tries_of(1, 66) == 1
