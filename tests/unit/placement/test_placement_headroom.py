"""`headroom` and its search: figures equal to the cost model's, feasible, deterministic, near the brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import networked, observations, placed, random_placements
from search_cases import instance, vectors

from testbed.errors import ConfigError
from testbed.placement.annealing.counts_to_blocks import placement_of
from testbed.placement.annealing.outlook import Outlook
from testbed.placement.annealing.problem import make_problem, places_of
from testbed.placement.annealing.state import INTERVAL, TOO_MANY, WEIGHTS, judged, load, new_state
from testbed.placement.blocks import Partition, Placement
from testbed.placement.cost.memory import Infeasible, nothing_fits, shortages
from testbed.placement.cost.model import cost_model, interval_cost
from testbed.placement.observation import Observation
from testbed.placement.policies.headroom import NEAR, Headroom


def agrees(observation: Observation, old: Placement | None, new: Placement) -> None:
    """The state's interval seconds and overfull devices are those of the plain cost model."""
    model = cost_model(observation)
    problem = make_problem(model, old, model)
    state = new_state(problem)
    load(problem, state, places_of(model, new), True)
    judged(problem, state, np.zeros(WEIGHTS))
    again = placement_of(problem, model, old, places_of(model, new))
    assert (places_of(model, again) == places_of(model, new)).all()
    head_s = model.source_seconds(model.source) - model.source_seconds(model.source, lm_head=False)
    want = interval_cost(observation, old, again) - observation.interval_tokens * head_s
    assert state.figures[INTERVAL] == pytest.approx(want, rel=1e-9)
    assert (state.figures[TOO_MANY] > 0) == bool(shortages(observation, old, again))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_search_predicts_what_the_cost_model_does(data):
    observation, old = data.draw(st.one_of(placed(), networked()))
    tokens = data.draw(st.sampled_from([0, 8, 16]))
    budgets = [data.draw(st.floats(0.2, 2)) for _ in observation.devices]
    views = [
        replace(view, available_bytes=int(view.available_bytes * part))
        for view, part in zip(observation.devices, budgets, strict=True)
    ]
    observation = replace(observation, devices=tuple(views), tokens_done=tokens)
    new = data.draw(random_placements(observation, [view.name for view in views]))
    shards = observation.partition.ffn_shards > 1 or observation.partition.proj_rows
    # From leaves that are not aligned more must move than the counts show.
    agrees(observation, None if shards else data.draw(st.sampled_from([None, old])), new)


CUTS = [Partition(ffn_shards=4), Partition(2, proj_rows=True), Partition(vocab_shards=5)]


@pytest.mark.parametrize("partition", CUTS, ids=str)
def test_the_search_predicts_shards_and_rows_too(partition):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        observation = replace(instance(seed, 2, 6, 4, 3.0), partition=partition)
        model = cost_model(observation)
        problem = make_problem(model, None, model)
        places = np.zeros_like(problem.old)
        for half in (0, 1, 2, 3, 5):
            kind = half % 2 if half < 4 else 3
            places[half, :-1] = rng.multinomial(problem.units[kind], np.ones(4) / 4)
            places[half, -1] = rng.integers(4) if half < 4 else model.source
        places[4, -1] = model.source
        agrees(observation, None, placement_of(problem, model, None, places))


def best_one_layer(observation: Observation) -> float:
    """The cheapest first placement of one layer with a whole FFN, by trying them all on the plain cost model."""
    model, problem = cost_model(observation), make_problem(cost_model(observation), None, cost_model(observation))
    devices, room = range(len(model.names)), problem.devices[0]
    best = np.inf
    for counts in vectors(int(problem.units[0]), len(model.names)):
        for proj, ffn in product(devices, devices):
            held = np.array(counts) * problem.sizes[0, 0, 0]
            held[proj] += problem.sizes[0, 0, 1]
            held[ffn] += problem.sizes[0, 1, 1]
            if (held <= room).all():
                around = model.source_seconds(ffn, lm_head=False)
                best = min(best, model.attention(0, proj, counts) + model.ffn(proj, ffn) + around)
    return best * model.tokens


@pytest.mark.parametrize(("heads", "devices", "tight"), [(6, 3, 1.4), (8, 3, 5.0), (6, 4, 1.4)])
def test_one_layer_is_placed_as_well_as_can_be(heads, devices, tight):
    for seed in range(4):
        observation = instance(seed, 1, heads, devices, tight)
        policy = Headroom("interval")
        policy.reset(seed)
        placement = policy.decide(observation, None)
        model = cost_model(observation)
        head_s = model.source_seconds(0) - model.source_seconds(0, lm_head=False)
        cost = interval_cost(observation, None, placement) - observation.interval_tokens * head_s
        assert cost == pytest.approx(best_one_layer(observation), rel=1e-9)


@pytest.mark.parametrize("horizon", ["interval", "near", "run"])
@pytest.mark.parametrize("shards", [1, 4])
def test_a_run_stays_feasible_deterministic_and_no_worse_than_staying(horizon, shards):
    observation = instance(3, 3, 8, 4, 1.5, shards)
    rng = np.random.default_rng(5)
    steps = []
    for done in range(0, 96, 8):
        links = {
            name: replace(link, up_bps=link.up_bps * float(rng.lognormal(0, 0.7)))
            for name, link in observation.links.items()
        }
        views = tuple(
            replace(view, streaming_Bps=view.streaming_Bps * float(rng.lognormal(0, 0.3)))
            for view in observation.devices
        )
        steps.append(replace(observation, devices=views, links=links, tokens_done=done))
    runs = []
    for _ in range(2):
        policy, placement, taken = Headroom(horizon), None, []
        policy.reset(11)
        for step in steps:
            new = policy.decide(step, placement)
            assert not shortages(step, placement, new)
            if placement is not None and horizon != "run" and not shortages(step, placement, placement):
                dearer = NEAR if horizon == "near" else 0.0
                stay = interval_cost(step, placement, placement)
                assert interval_cost(step, placement, new) <= stay * (1 + dearer + 1e-9)
            placement = new
            taken.append(dict(new.devices))
        runs.append(taken)
    assert runs[0] == runs[1]


@settings(max_examples=40, deadline=None)
@given(observations(tightness=st.floats(0.6, 3.0)), st.randoms())
def test_headroom_fits_or_says_that_nothing_does(observation, random):
    policy = Headroom(effort=0.01)
    try:
        placement = policy.decide(observation, None)
    except Infeasible:
        assert nothing_fits(observation) is not None
        return
    assert not shortages(observation, None, placement)
    views = [
        replace(view, available_bytes=int(view.available_bytes * random.uniform(0.7, 1.2)))
        for view in observation.devices
    ]
    later = replace(observation, devices=tuple(views), tokens_done=8)
    try:
        again = policy.decide(later, placement)
    except Infeasible:
        return
    assert not shortages(later, placement, again)


def test_what_changes_only_for_a_moment_is_half_believed():
    observation = instance(0, 1, 4, 3, 3.0)
    outlook = Outlook()
    assert outlook.after(observation) == replace(observation, tokens_done=8, interval=88)
    fallen = replace(observation.links["d1"], up_bps=observation.links["d1"].up_bps / 4)
    squeezed = replace(observation.devices[2], available_bytes=observation.devices[2].available_bytes - 1000)
    now = replace(
        observation,
        links={**observation.links, "d1": fallen},
        devices=(*observation.devices[:2], squeezed),
        tokens_done=8,
    )
    later = outlook.after(now)
    assert later is not None
    assert later.links["d1"].up_bps == pytest.approx(observation.links["d1"].up_bps / 2)
    assert later.devices[2].available_bytes == observation.devices[2].available_bytes - 2000
    assert outlook.after(replace(now, tokens_done=88)) is None


def test_wrong_options_are_refused():
    for wrong in ({"horizon": "year"}, {"effort": 0}, {"effort": True}):
        with pytest.raises(ConfigError, match="headroom"):
            Headroom(**wrong)


@settings(max_examples=20, deadline=None)
@given(networked())
def test_routed_networks_are_searched_too(case):
    observation, old = case
    policy = Headroom("interval", 0.1)
    first = policy.decide(observation, None)
    again = policy.decide(replace(observation, tokens_done=8), first)
    assert not shortages(observation, None, first)
    assert not shortages(replace(observation, tokens_done=8), first, again)
    assert interval_cost(observation, None, first) <= interval_cost(observation, None, old) * 1.01
