"""From counts back to blocks: few moves, few roots, and the better of both at its real cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_cases import instance

from testbed.placement.annealing.counts_to_blocks import BlockAssigner, aligned_runs, fewest_moves, placement_of
from testbed.placement.annealing.problem import make_problem, places_of
from testbed.placement.blocks import Partition, Placement
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import cost_model, interval_cost
from testbed.placement.exact.solve import decision_cost, optimum
from testbed.placement.policies.headroom import Headroom
from testbed.placement.tree import aligned_roots, tree_roots


def test_units_move_as_little_as_they_can():
    assert fewest_moves((2, 1, 1), (0, 0, 0, 0), (0, 1, 2), (2, 1, 0)) == (0, 0, 2, 1)
    assert aligned_runs((2, 2), (0, 0, 0, 1)) == (0, 0, 1, 1)
    assert aligned_runs((1, 3), (0, 0, 0, 1)) in [(0, 1, 1, 1), (1, 0, 1, 1)]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.randoms())
def test_aligned_leaves_have_the_fewest_roots(counts, random):
    leaves = sum(counts)
    present = tuple(random.randrange(len(counts)) for _ in range(leaves))
    for before in (None, present):
        where = aligned_runs(tuple(counts), before)
        assert [where.count(device) for device in range(len(counts))] == counts
        for device, count in enumerate(counts):
            held = [leaf for leaf, at in enumerate(where) if at == device]
            assert len(tree_roots(held)) <= aligned_roots(count)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5), st.randoms())
def test_units_of_a_sum_move_as_little_as_others_do(counts, random):
    present = tuple(random.randrange(len(counts)) for _ in range(sum(counts)))
    order = tuple(range(len(counts)))
    for partial in (False, True):
        where = fewest_moves(tuple(counts), present, order, order[::-1], partial)
        assert [where.count(device) for device in order] == counts
        moved = sum(at != before for at, before in zip(where, present, strict=True))
        assert moved == sum(max(0, present.count(device) - counts[device]) for device in order)


def test_of_the_units_of_a_sum_those_move_that_leave_few_roots():
    # Device 1 has leaf 2 and gets one more: with leaf 3 both devices have one root, with leaf 0 or 1 two.
    assert fewest_moves((2, 2), (0, 0, 1, 0), (0, 1), (1, 0), partial=True) == (0, 0, 1, 1)
    assert fewest_moves((4, 4), (0, 0, 0, 0, 0, 0, 1, 1), (0, 1), (1, 0), partial=True) == (0, 0, 0, 0, 1, 1, 1, 1)


CUTS = [Partition(ffn_shards=6), Partition(3, proj_rows=True), Partition(ffn_shards=6, vocab_shards=5)]


def scattered(observation, rng) -> Placement:
    """A placement whose leaves lie anywhere."""
    model = cost_model(observation)
    problem = make_problem(model, None, model)
    counts = counted(problem, model, rng)
    aligned = placement_of(problem, model, None, counts)
    names = [view.name for view in observation.devices]
    return replace(aligned, devices={block: names[rng.integers(len(names))] for block in aligned.devices})


def counted(problem, model, rng):
    """Random counts and targets."""
    places = np.zeros_like(problem.old)
    devices = len(model.names)
    for half in (0, 1, 2, 3, 5):
        kind = half % 2 if half < 4 else 3
        places[half, :-1] = rng.multinomial(problem.units[kind], np.ones(devices) / devices)
        places[half, -1] = rng.integers(devices) if half < 4 else model.source
    places[4, -1] = model.source
    return places


@pytest.mark.parametrize("partition", CUTS, ids=str)
@pytest.mark.parametrize("rate", [1e6, 1e9], ids=["slow links", "fast links"])
def test_what_is_assigned_costs_what_it_says_and_no_more_than_aligned(partition, rate):
    rng = np.random.default_rng(7)
    cheaper = 0
    for seed in range(12):
        observation = replace(instance(seed, 2, 6, 4, 20.0), partition=partition, tokens_done=8)
        links = {name: replace(link, up_bps=rate, down_bps=rate) for name, link in observation.links.items()}
        observation = replace(observation, links=links)
        old = scattered(observation, rng)
        model = cost_model(observation)
        problem = make_problem(model, old, model)
        places = counted(problem, model, rng)
        head_s = model.source_seconds(0) - model.source_seconds(0, lm_head=False)
        real = BlockAssigner(problem, model, old).assign(places, 0.0)
        assert real is not None
        assert not shortages(observation, old, real.placement)
        assert (places_of(model, real.placement) == places).all()
        cost = interval_cost(observation, old, real.placement) - observation.interval_tokens * head_s
        assert real.interval_s == pytest.approx(cost, rel=1e-9)
        aligned = interval_cost(observation, old, placement_of(problem, model, old, places))
        assert cost <= (aligned - observation.interval_tokens * head_s) * (1 + 1e-9)
        cheaper += cost < aligned - observation.interval_tokens * head_s - 1e-6
    assert cheaper if rate > 1e8 else cheaper < 12  # roots are dear on slow links, moves on fast ones


def test_moves_that_memory_demands_cost_what_exact_pays_for_them():
    observation = instance(6, 3, 8, 4, 1.5, 8)
    rng, policy = np.random.default_rng(106), Headroom("interval", 0.05)
    policy.reset(1)
    placement = policy.decide(observation, None)
    for done in (8, 16, 24):
        views = [
            replace(view, streaming_Bps=view.streaming_Bps * float(rng.lognormal(0, 0.5)), storage_Bps=9e8)
            for view in observation.devices
        ]
        seen = replace(observation, devices=tuple(views), tokens_done=done)
        best = optimum(seen, placement, limit_s=60)
        new = policy.decide(seen, placement)
        assert best.proved
        assert decision_cost(seen, placement, new) <= 1.001 * best.cost_s
        placement = new


def test_what_does_not_fit_is_not_assigned():
    observation = instance(1, 2, 6, 4, 3.0, 6)
    model = cost_model(observation)
    old = placement_of(make_problem(model, None, model), model, None, everything_on(model, 0))
    full = replace(observation.devices[1], available_bytes=1000)
    observation = replace(observation, devices=(observation.devices[0], full, *observation.devices[2:]), tokens_done=8)
    model = cost_model(observation)
    problem = make_problem(model, old, model)
    assert BlockAssigner(problem, model, old).assign(everything_on(model, 1), 0.0) is None


def everything_on(model, device):
    """All units and targets on one device."""
    problem = make_problem(model, None, model)
    places = np.zeros_like(problem.old)
    for half in range(len(places)):
        kind = half % 2 if half < len(places) - 2 else half - len(places) + 4
        places[half, device] = problem.units[kind]
        places[half, -1] = device if half < len(places) - 2 else model.source
    return places
