"""Policies that keep layers whole: hand-checked cases, and layerwise against every assignment there is."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from placement_cases import MIB, in_layers, networked, observations, quickstart, roomy

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, Partition, Placement
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import cost_model, interval_cost, token_latency
from testbed.placement.layers.dynamic_program import fastest_path
from testbed.placement.layers.integer_program import cheapest_walk
from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.draft import Draft
from testbed.placement.observation import Observation
from testbed.placement.policies import make_policy
from testbed.placement.policies.layerwise import Layerwise


def layer_devices(placement: Placement) -> list[str]:
    """The device of each layer; fails where a layer is split."""
    found: dict[int, set[str]] = {}
    for block, device in placement.devices.items():
        found.setdefault(block.layer, set()).add(device)
    assert all(len(devices) == 1 for devices in found.values()), found
    return [found[layer].pop() for layer in sorted(found)]


def cheapest_of_all(observation: Observation, old: Placement | None) -> float:
    """The cost of the cheapest interval with whole layers, by trying every assignment."""
    names = [view.name for view in observation.devices]
    best = math.inf
    for devices in product(names, repeat=observation.shape.layers):
        placement = in_layers(observation, devices)
        if not shortages(observation, old, placement):
            best = min(best, interval_cost(observation, old, placement))
    return best


# --- on one device ------------------------------------------------------------------------------------------


def test_single_takes_the_device_with_the_shortest_token_and_refuses_where_none_holds_the_model() -> None:
    observation = roomy(quickstart())
    placement = make_policy("single", {}).decide(observation, None)
    latency = {name: token_latency(observation, in_layers(observation, (name,) * 12), 24) for name in "abcd"}
    assert set(placement.devices.values()) == {min(latency, key=lambda name: latency[name])}
    with pytest.raises(Infeasible, match=r"no device has room for the whole model, which needs 3.* MiB"):
        make_policy("single", {}).decide(quickstart(), None)


def test_single_leaves_a_device_that_can_no_longer_hold_the_model_as_a_whole() -> None:
    observation = roomy(quickstart())
    policy = make_policy("single", {})
    first = policy.decide(observation, None)
    here = first.devices[Block("proj", 0)]
    views = tuple(
        replace(view, available_bytes=300 * MIB if view.name == here else 2**31) for view in observation.devices
    )
    later = replace(observation, tokens_done=8, devices=views)
    second = policy.decide(later, first)
    assert len(set(second.devices.values())) == 1 and here not in second.devices.values()


# --- whole layers -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(observations(tightness=st.floats(0.8, 3)), networked().map(lambda case: case[0])),
    st.sampled_from([1, 4]), st.data(),
)  # fmt: skip
def test_layerwise_is_the_best_of_all_assignments_of_whole_layers(
    observation: Observation, shards: int, data: st.DataObject
) -> None:
    observation = replace(observation, partition=Partition(ffn_shards=shards))
    assume(len(observation.devices) ** observation.shape.layers <= 125)
    policy = Layerwise(reserve=False)
    best = cheapest_of_all(observation, None)
    try:
        first = policy.decide(observation, None)
    except Infeasible:
        assert best == math.inf
        return
    layer_devices(first)
    assert interval_cost(observation, None, first) == pytest.approx(best, rel=1e-9, abs=1e-7)
    if data.draw(st.booleans()):  # any present placement of whole layers, not only its own
        names = st.sampled_from([view.name for view in observation.devices])
        drawn = in_layers(observation, tuple(data.draw(names) for _ in range(observation.shape.layers)))
        first = drawn if not shortages(observation, None, drawn) else first
    scale = st.floats(0.4, 1.5)
    views = tuple(
        replace(view, available_bytes=int(view.available_bytes * data.draw(scale))) for view in observation.devices
    )
    links = {
        name: replace(link, up_bps=link.up_bps * data.draw(scale), down_bps=link.down_bps * data.draw(scale))
        for name, link in observation.links.items()
    }
    later = replace(observation, tokens_done=16, devices=views, links=links, interval=data.draw(st.integers(1, 24)))
    best = cheapest_of_all(later, first)
    try:
        second = policy.decide(later, first)
    except Infeasible:
        assert policy.proven and best == math.inf
        return
    layer_devices(second)
    assert policy.proven
    assert interval_cost(later, first, second) == pytest.approx(best, rel=1e-9, abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_the_cheapest_walk_is_the_best_of_all_walks_even_where_a_detour_is_shorter(
    devices: int, count: int, data: st.DataObject
) -> None:
    seconds = st.floats(0, 10)
    alone = [data.draw(seconds) for _ in range(devices)]
    step = [[alone[j] + (0 if i == j else data.draw(seconds)) for j in range(devices)] for i in range(devices)]
    home, room = [data.draw(seconds) for _ in alone], [data.draw(st.integers(0, count)) for _ in alone]

    def total(walk: tuple[int, ...]) -> float:
        hops = pairwise(walk)
        return step[0][walk[0]] + sum(step[i][j] for i, j in hops) + home[walk[-1]]

    walks = [
        walk for walk in product(range(devices), repeat=count) if all(walk.count(j) <= room[j] for j in range(devices))
    ]
    found = cheapest_walk(step, home, room, count, 0)
    if not walks:
        assert found is None
        return
    assert found is not None and tuple(found) in walks
    assert total(tuple(found)) == pytest.approx(min(map(total, walks)), abs=1e-6)


def test_edgeshard_begins_at_the_source_and_layerwise_need_not() -> None:
    observation = roomy(quickstart())
    edgeshard = make_policy("edgeshard", {}).decide(observation, None)
    layerwise = make_policy("layerwise", {}).decide(observation, None)
    assert layer_devices(edgeshard)[0] == "a"
    assert interval_cost(observation, None, layerwise) < interval_cost(observation, None, edgeshard)
    assert layer_devices(layerwise) == ["b"] * 12  # the fastest memory, one hop there and one back


def test_edgeshards_program_is_the_papers_recurrence_where_memory_is_no_matter() -> None:
    observation = roomy(quickstart())
    layers = WholeLayers(Draft(cost_model(observation), None, None))
    step, home = layers.step, layers.home
    table = [[math.inf] * 4 for _ in range(12)]
    table[0][0] = step[0][0]
    for i in range(1, 12):
        for j in range(4):
            table[i][j] = min(table[i - 1][k] + step[k][j] for k in range(4))
    path = fastest_path(layers, 0)
    assert path is not None
    total = step[0][path[0]] + sum(step[i][j] for i, j in pairwise(path)) + home[path[-1]]
    assert total == pytest.approx(min(table[11][j] + home[j] for j in range(4)))


def test_edgeshard_places_elsewhere_what_a_source_without_room_for_a_layer_cannot_take() -> None:
    observation = roomy(quickstart())
    views = tuple(
        replace(view, available_bytes=160 * MIB if view.name == "a" else 2**31) for view in observation.devices
    )
    placement = make_policy("edgeshard", {}).decide(replace(observation, devices=views), None)
    assert "a" not in placement.devices.values()


def test_whole_layers_leave_a_squeezed_device_as_wholes() -> None:
    for name in ("edgeshard", "layerwise"):
        policy = make_policy(name, {})
        first = policy.decide(quickstart(), None)
        squeezed = quickstart(tokens_done=48, b_mib=72)
        assert shortages(squeezed, first, first)
        second = policy.decide(squeezed, first)
        assert shortages(squeezed, first, second) == []
        assert layer_devices(first).count("b") > layer_devices(second).count("b") <= 2


def test_edgeshard_pins_its_first_layer_unless_told_or_in_a_model_of_one_layer() -> None:
    observation = quickstart()
    views = roomy(observation).devices
    fast = tuple(replace(v, streaming_Bps=v.streaming_Bps * (50 if v.name == "b" else 1)) for v in views)
    for layers, option, wanted in ((2, None, "a"), (2, True, "a"), (2, False, "b"), (1, None, "b"), (1, True, "a")):
        seen = replace(observation, shape=replace(observation.shape, layers=layers), devices=fast)
        options = {} if option is None else {"pin_source": option}
        assert layer_devices(make_policy("edgeshard", options).decide(seen, None))[0] == wanted
    with pytest.raises(ConfigError, match="pin_source is 'no'"):
        make_policy("edgeshard", {"pin_source": "no"})


def test_the_throughput_mode_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="policy edgeshard: mode: throughput fills a pipeline with many sequences"):
        make_policy("edgeshard", {"mode": "throughput"})
    with pytest.raises(ConfigError, match="policy edgeshard: mode is 'both', but it must be latency"):
        make_policy("edgeshard", {"mode": "both"})
    assert make_policy("edgeshard", {"mode": "latency"}).name == "edgeshard"
