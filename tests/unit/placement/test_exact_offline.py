"""`exact-offline`: equal to brute force over whole runs, and never worse than a run of decisions that see less."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from exact_cases import later, medium_instance, tiny_instance

from testbed.errors import ConfigError
from testbed.placement.blocks import Partition, Placement, blocks_of
from testbed.placement.cost.memory import shortages
from testbed.placement.exact.offline import best_run
from testbed.placement.exact.solve import decision_cost, optimum
from testbed.placement.observation import Observation


def run_of(seed: int) -> list[Observation]:
    """Three boundaries of two devices and one layer of two heads."""
    observation, _ = tiny_instance(seed)
    shape = replace(observation.shape, layers=1, kv_heads=2, heads=2)
    first = replace(
        observation,
        shape=shape,
        partition=Partition(),
        devices=tuple(replace(view, available_bytes=2 * view.available_bytes) for view in observation.devices[:2]),
        tokens_done=0,
        interval=8,
    )
    second = replace(later(first, seed), tokens_done=8)
    return [first, second, replace(later(second, seed + 1), tokens_done=16)]


def cost_of(run: list[Observation], placements: tuple[Placement, ...]) -> float:
    old, total = None, 0.0
    for observation, placement in zip(run, placements, strict=True):
        if shortages(observation, old, placement):
            return math.inf
        total += decision_cost(observation, old, placement)
        old = placement
    return total


@pytest.mark.parametrize("seed", range(6))
def test_the_best_run_is_the_least_of_all_runs_and_no_worse_than_deciding_step_by_step(seed: int) -> None:
    run = run_of(seed)
    blocks, names = blocks_of(run[0].shape), [view.name for view in run[0].devices]
    every = [Placement(dict(zip(blocks, where, strict=True))) for where in itertools.product(names, repeat=len(blocks))]
    expected = min(cost_of(run, placements) for placements in itertools.product(every, repeat=len(run)))
    placements, seconds = best_run(run)
    assert seconds == pytest.approx(expected, abs=1e-9)
    if math.isinf(expected):
        assert placements == []
        return
    assert cost_of(run, tuple(placements)) == pytest.approx(seconds, abs=1e-9)
    old: Placement | None = None
    myopic = 0.0
    for observation in run:
        found = optimum(observation, old)
        if found.placement is None:
            return
        myopic, old = myopic + found.cost_s, found.placement
    assert seconds <= myopic + 1e-9


def test_large_instances_are_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="at most 5000 placements"):
        best_run([medium_instance(0, "abcde", 1, 8, 3.0)])
