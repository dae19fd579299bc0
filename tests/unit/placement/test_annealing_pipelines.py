"""Pipelines, filled one device after the other: they are whole placements, and the best order is found."""

from itertools import permutations

import numpy as np
import pytest
from search_cases import Searched, instance, searched

from testbed.placement.annealing.pipelines import best_pipelines, orders_of
from testbed.placement.annealing.problem import (
    INTERVAL_END,
    LATER_ROOM,
    RUN_END,
    SHORTLIST,
    TARGET,
    UNIT,
    Problem,
    kind_of,
)
from testbed.placement.annealing.starts import filled


def tight(shards: int, seed: int) -> Searched:
    """A tight instance of five devices, ready to be searched, with the price of overfilling set."""
    found = searched(instance(seed, 4, 4, 5, 1.4, shards), seed)
    found.price_from(filled(found.problem, found.problem.devices[SHORTLIST, :5].tolist(), INTERVAL_END))
    return found


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_pipeline_places_every_unit_and_fills_no_device_over_but_the_last(shards: int, seed: int) -> None:
    case = tight(shards, seed)
    problem = case.problem
    for places in best_pipelines(*case, 50):
        kinds = [kind_of(half, len(places)) for half in range(len(places))]
        assert [places[half, :-1].sum() for half in range(len(places))] == problem.units[kinds].tolist()
        assert (places >= 0).all()
        case.judge(places)
        need = np.zeros(5, np.int64)
        for half, kind in enumerate(kinds):
            need += places[half, :-1] * problem.sizes[INTERVAL_END, kind, UNIT]
            need[places[half, -1]] += problem.sizes[INTERVAL_END, kind, TARGET]
        assert (need > problem.devices[0]).sum() <= 1


def pipeline(problem: Problem, order: tuple[int, ...]) -> np.ndarray:
    """Whole halves in turn, each on the present device if there is room at the run's end, else on the next one."""
    places = np.zeros_like(problem.old)
    rest, room = list(order), problem.devices[LATER_ROOM].copy()
    for half in range(len(places) - 2):
        kind = kind_of(half, len(places))
        need = problem.units[kind] * problem.sizes[RUN_END, kind, UNIT] + problem.sizes[RUN_END, kind, TARGET]
        while room[rest[0]] < need and len(rest) > 1:
            rest.pop(0)
        room[rest[0]] -= need
        places[half, rest[0]] = problem.units[kind]
        places[half, -1] = rest[0]
    places[-2:, -1] = problem.source
    return places


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_order_of_whole_halves_is_better_than_the_best_pipeline(seed: int) -> None:
    case = tight(4, seed)
    best = min(case.judge(places) for places in best_pipelines(*case, 400))
    orders = permutations(case.problem.devices[SHORTLIST, :5].tolist())
    assert best <= min(case.judge(pipeline(case.problem, order)) for order in orders) * (1 + 1e-9)


def test_many_devices_and_layers_get_fewer_orders_but_at_least_one() -> None:
    assert orders_of(2_500_000, 26) == 1000
    assert 1 <= orders_of(50_000, 66) < 100
    assert orders_of(1, 66) == 1
