"""`exact`: equal to brute force on everything that can be enumerated, and never above any placement beyond that."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
from exact_cases import later, medium_instance, tiny_instance
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import networked, observations, random_placements

from testbed.errors import ConfigError
from testbed.placement.blocks import Partition, Placement, blocks_of, pinned_bytes, resident_bytes
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import interval_cost
from testbed.placement.exact.classes import PlacementClass, in_class
from testbed.placement.exact.limits import UNIT_ASSIGNMENTS
from testbed.placement.exact.options import matched
from testbed.placement.exact.solve import decision_cost, optimum
from testbed.placement.local.draft import Draft
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import make_policy
from testbed.shape import ModelShape

SEEDS = 60
STRAINED = 40


def by_brute_force(observation: Observation, old: Placement | None, klass: PlacementClass) -> float:
    blocks = blocks_of(observation.shape, observation.partition)
    best = math.inf
    for devices in itertools.product([view.name for view in observation.devices], repeat=len(blocks)):
        placement = Placement(dict(zip(blocks, devices, strict=True)))
        if in_class(observation, placement, klass) and not shortages(observation, old, placement):
            best = min(best, decision_cost(observation, old, placement))
    return best


@pytest.mark.parametrize("seed", range(SEEDS))
def test_exact_is_the_least_of_all_placements_of_its_class(seed: int) -> None:
    observation, old = tiny_instance(seed)
    klass: PlacementClass = ("any", "any", "head", "any", "shard", "layer", "single")[seed % 7]  # type: ignore[assignment]
    expected = by_brute_force(observation, old, klass)
    found = optimum(observation, old, klass)
    if expected == math.inf:
        assert found.placement is None and found.bound_s == math.inf
        return
    assert found.placement is not None and found.proved
    assert found.cost_s == pytest.approx(expected, abs=1e-9)
    assert decision_cost(observation, old, found.placement) == found.cost_s
    assert in_class(observation, found.placement, klass) and not shortages(observation, old, found.placement)


def test_some_of_the_tiny_instances_are_tight_move_things_and_cannot_be_solved() -> None:
    instances = [tiny_instance(seed) for seed in range(SEEDS)]
    found = [optimum(observation, old) for observation, old in instances]
    assert 3 <= sum(one.placement is None for one in found) <= SEEDS / 2
    pairs = [(old, one.placement) for (_, old), one in zip(instances, found, strict=True) if one.placement and old]
    assert sum(bool(old.moves_to(new)) for old, new in pairs) >= 5
    assert sum(not old.moves_to(new) for old, new in pairs) >= 2


def strained_instance(seed: int) -> tuple[Observation, Placement]:
    """3-4 devices at delays that differ much, one layer, much of it on a device that cannot hold it any more."""
    rng = random.Random(seed)
    names = "abcd"[: rng.choice([3, 4])]
    heads = rng.choice([1, 2])
    shape = ModelShape("x", 1, 64, heads, heads, 16, 64, 64, 256)
    partition = Partition(rng.choice([1, 2]) if heads == 1 else 1)
    whole = sum(resident_bytes(shape, block, 60, partition) for block in blocks_of(shape, partition))
    crowded = rng.choice(names[1:])
    devices = []
    for name in names:
        room = whole * (rng.uniform(0.05, 0.6) if name == crowded else rng.uniform(0.5, 1.5))
        budget = int(room) + (pinned_bytes(shape, partition) if name == "a" else 0)
        devices.append(DeviceView(name, budget, rng.uniform(1e7, 2e7), 1e11, 1e7))
    rate, weights = 10 ** rng.uniform(5, 8), rng.choice(["staged", "shipped"])
    links = {name: LinkView(rate, rate, *(rng.uniform(0, 0.05) * rng.choice([0.1, 1]) for _ in "ud")) for name in names}
    old = {block: crowded if rng.random() < 0.6 else rng.choice(names) for block in blocks_of(shape, partition)}
    observation = Observation(shape, partition, "a", tuple(devices), links, 5, 8, 40, 1, weights)
    return observation, Placement(old, 3)


@pytest.mark.parametrize("seed", range(STRAINED))
def test_what_must_move_and_which_path_it_takes_is_settled_as_by_brute_force(seed: int) -> None:
    observation, old = strained_instance(seed)
    found = optimum(observation, old)
    assert found.cost_s == pytest.approx(by_brute_force(observation, old, "any"), abs=1e-9)
    assert found.placement is None or found.proved


@settings(max_examples=100, deadline=None)
@given(observations(tightness=st.floats(1.2, 3)), st.data())
def test_no_placement_that_fits_costs_less_than_the_bound(observation: Observation, data: st.DataObject) -> None:
    observation = replace(observation, partition=replace(observation.partition, vocab_shards=1))  # others are refused
    names = [view.name for view in observation.devices]
    old: Placement | None = None
    if data.draw(st.booleans()):
        old = data.draw(random_placements(observation, names))
        observation = replace(observation, tokens_done=8)
    found = optimum(observation, old)
    by_unit = len(names) ** observation.partition.ffn_shards <= UNIT_ASSIGNMENTS
    assert found.placement is None or found.proved or not by_unit
    for _ in range(5):
        other = data.draw(random_placements(observation, names))
        if not shortages(observation, old, other):
            assert decision_cost(observation, old, other) >= found.bound_s - 1e-5
    if old is not None and not shortages(observation, old, old):
        assert found.cost_s <= decision_cost(observation, old, old) + 1e-9


@pytest.mark.parametrize("names", ["abc", "abcd", "abcde"])
@pytest.mark.parametrize("tightness", [1.4, 3.0])
def test_one_layer_of_8_to_16_heads_is_solved_with_proof_first_and_later(names: str, tightness: float) -> None:
    for seed in range(20):
        observation = medium_instance(seed, names, 1, 8 + seed % 9, tightness)
        first = optimum(observation, None)
        if first.placement is None:
            assert first.bound_s == math.inf
            continue
        assert first.proved, seed
        second = optimum(later(observation, seed), first.placement)
        assert second.proved or second.placement is None, seed
        assert (
            second.placement is None
            or second.cost_s <= decision_cost(later(observation, seed), first.placement, first.placement)
            or shortages(later(observation, seed), first.placement, first.placement)
        )


def test_classes_nest_and_any_is_the_least() -> None:
    for seed in range(6):
        observation = medium_instance(seed, "abcd", 2, 8, 3.0, shards=4)
        costs = {
            klass: optimum(observation, None, klass).cost_s for klass in ("single", "layer", "head", "shard", "any")
        }
        assert costs["single"] >= costs["layer"] >= max(costs["head"], costs["shard"]) - 1e-12
        assert min(costs["head"], costs["shard"]) >= costs["any"] - 1e-12
        assert costs["any"] < math.inf


def test_four_layers_of_eight_heads_are_proved_and_no_policy_is_better() -> None:
    observation = medium_instance(3, "abcde", 4, 8, 1.4)
    policy = make_policy("exact", {})
    policy.reset(1)
    first = policy.decide(observation, None)
    assert policy.last.proved  # type: ignore[attr-defined]
    for name in ("paper-search", "greedy", "headroom"):
        other = make_policy(name, {})
        other.reset(1)
        assert decision_cost(observation, None, other.decide(observation, None)) >= (
            decision_cost(observation, None, first) - 1e-9
        )
    following = later(observation, 1)
    second = policy.decide(following, first)
    assert policy.last.proved and not shortages(following, first, second)  # type: ignore[attr-defined]


@given(st.integers(0, SEEDS))
@settings(max_examples=20, deadline=None)
def test_its_cost_is_the_drafts_and_that_of_the_interval_without_the_lm_head(seed: int) -> None:
    observation, old = tiny_instance(seed)
    found = optimum(observation, old)
    if found.placement is None:
        return
    from testbed.placement.cost.model import cost_model

    model = cost_model(observation)
    assert Draft(model, found.placement, old).cost == pytest.approx(found.cost_s, rel=1e-9)
    step = model.source_seconds(model.source) - model.source_seconds(model.source, lm_head=False)
    expected = interval_cost(observation, old, found.placement) - observation.interval_tokens * step
    assert expected == pytest.approx(found.cost_s, rel=1e-9)


def test_units_take_a_detour_where_that_shortens_the_longest_path() -> None:
    """Two heads from a to c, whose delays are long, cost less by way of b, which passes its own two on."""
    import numpy as np

    allowed = np.array([[True, True, False], [True, True, True], [True, True, True]])
    leaving, arriving = np.array([[2, 0, 0]]), np.array([[0, 0, 2]])
    relayed = np.array([[0, 2, 0]])
    assert not matched(arriving, leaving, allowed)[0]
    assert matched(arriving + relayed, leaving + relayed, allowed)[0]


def test_time_running_out_leaves_the_best_so_far_and_says_how_far_off_it_can_be() -> None:
    observation = medium_instance(1, "abcde", 4, 8, 1.3)
    policy = make_policy("exact", {"limit": 0})
    policy.reset(1)
    placement = policy.decide(observation, None)
    assert not shortages(observation, None, placement)
    proof = policy.last  # type: ignore[attr-defined]
    best = optimum(observation, None).cost_s
    assert proof.bound_s <= best <= decision_cost(observation, None, placement) + 1e-9
    assert proof.gap >= 0


def test_what_it_cannot_do_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"class is 'heads', and can be single, layer, head, shard, any"):
        make_policy("exact", {"class": "heads"})
    with pytest.raises(ConfigError, match=r"no option 'klass': it knows class, limit"):
        make_policy("exact", {"klass": "any"})
    observation, _ = tiny_instance(0)
    cut = replace(observation, partition=replace(observation.partition, vocab_shards=2))
    with pytest.raises(ConfigError, match=r"partition.vocab_shards is 2: set it to 1"):
        make_policy("exact", {}).decide(cut, None)
    tight = replace(observation, devices=tuple(replace(view, available_bytes=9000) for view in observation.devices))
    with pytest.raises(Infeasible) as refused:
        make_policy("exact", {"class": "layer"}).decide(tight, None)
    assert refused.value.shortage is not None


@settings(max_examples=5, deadline=None)
@given(networked())
def test_networks_with_routes_are_refused(case: tuple[Observation, Placement]) -> None:
    with pytest.raises(ConfigError, match="star topologies only"):
        make_policy("exact", {}).decide(case[0], None)
