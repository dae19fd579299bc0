"""The rivals' policies: hand-checked cases, and layerwise against every assignment of whole layers there is."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from placement_cases import MIB, networked, observations, quickstart

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, Partition, Placement, blocks_of
from testbed.placement.cost.memory import Infeasible, any_placement, check_complete, kinds_at, shortages
from testbed.placement.cost.model import cost_model, interval_cost, token_latency
from testbed.placement.layers.dynamic_program import fastest_path
from testbed.placement.layers.integer_program import cheapest_walk
from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.draft import Draft
from testbed.placement.local.proportional import apportion
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import POLICIES, make_policy
from testbed.placement.policies.layerwise import Layerwise

RIVALS = ("single", "dynamic-threshold", "edgeshard", "layerwise", "tensor-parallel", "galaxy")
SHARDED = Partition(ffn_shards=4)
WORDS = Partition(ffn_shards=4, proj_rows=True, vocab_shards=4)


def roomy(observation: Observation) -> Observation:
    """The same devices with memory for anything."""
    return replace(observation, devices=tuple(replace(view, available_bytes=2**31) for view in observation.devices))


def in_layers(observation: Observation, devices: tuple[str, ...]) -> Placement:
    """Whole layers on these devices."""
    return Placement({block: devices[block.layer] for block in blocks_of(observation.shape, observation.partition)})


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


# --- all of them ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(observations(tightness=st.floats(0.8, 3)), networked().map(lambda case: case[0])),
    st.sampled_from(RIVALS), st.floats(0.4, 1.2), st.floats(0.02, 1),
)  # fmt: skip
def test_what_a_rival_decides_is_complete_fits_and_comes_out_again_or_it_is_infeasible(
    observation: Observation, name: str, memory: float, rate: float
) -> None:
    policy, twin = make_policy(name, {}), make_policy(name, {})
    policy.reset(3)
    twin.reset(3)
    try:
        first = policy.decide(observation, None)
    except Infeasible as error:
        with pytest.raises(Infeasible):
            twin.decide(observation, None)
        assert str(error).startswith(f"{'resource-aware' if name == 'dynamic-threshold' else name} ")
        return
    check_complete(observation, first)
    assert shortages(observation, None, first) == []
    assert twin.decide(observation, None).devices == first.devices
    views = [replace(view, available_bytes=int(view.available_bytes * memory)) for view in observation.devices[:1]]
    links = {link: replace(view, up_bps=view.up_bps * rate) for link, view in observation.links.items()}
    later = replace(observation, tokens_done=8, links=links, devices=(*views, *observation.devices[1:]))
    try:
        second = policy.decide(later, first)
    except Infeasible:
        return
    check_complete(later, second)
    assert shortages(later, first, second) == []
    assert twin.decide(later, first).devices == second.devices
    assert (second is first) == (not first.moves_to(second))


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "exact"])
@pytest.mark.parametrize("partition", [Partition(), SHARDED, WORDS], ids=["whole", "sharded", "words"])
def test_every_policy_decides_on_the_quickstart_however_the_model_is_cut(name: str, partition: Partition) -> None:
    observation = replace(roomy(quickstart()), partition=partition)
    policy = make_policy(name, {})
    placement = policy.decide(observation, None)
    check_complete(observation, placement)
    assert shortages(observation, None, placement) == []
    words = {device for block, device in placement.devices.items() if block.kind == "vocab"}
    if name in ("single", "edgeshard", "layerwise"):
        assert words <= {"a"}
    tight = replace(quickstart(tokens_done=16), partition=partition)
    try:
        later = policy.decide(tight, placement)
    except Infeasible:
        return
    assert name == "static" or shortages(tight, placement, later) == []


def test_static_places_like_the_best_of_the_others_judged_over_the_whole_run() -> None:
    observation = quickstart()
    whole = replace(observation, interval=96)
    costs = {}
    for name in POLICIES:
        try:
            placement = make_policy(name, {}).decide(observation if name == "static" else whole, None)
        except Infeasible:
            continue
        costs[name] = interval_cost(whole, None, placement)
    assert len(costs) >= 9
    assert costs["static"] == pytest.approx(min(costs[name] for name in costs if name != "exact"), rel=1e-9)


def test_static_asks_the_others_with_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Noting(POLICIES["headroom"].factory):  # type: ignore[misc]
        def reset(self, seed: int) -> None:
            asked.append(seed)
            super().reset(seed)

    monkeypatch.setitem(POLICIES, "headroom", POLICIES["headroom"]._replace(factory=Noting))
    policy = make_policy("static", {})
    policy.reset(7)
    policy.decide(quickstart(), None)
    assert asked == [7]


# --- single ---------------------------------------------------------------------------------------------------------


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


def test_edgeshards_programme_is_the_papers_recurrence_where_memory_is_no_matter() -> None:
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


# --- every layer on all devices ---------------------------------------------------------------------------------------


def test_largest_remainders_are_dealt_in_turn() -> None:
    assert apportion(12, [1, 1, 1, 1]) == [3, 3, 3, 3]
    assert apportion(4, [3, 1]) == [3, 1]
    assert apportion(5, [1, 1, 1]) == [2, 2, 1]
    assert apportion(5, [1, 1, 1], first=1) == [1, 2, 2]
    assert apportion(7, [5, 0, 2.6]) == [5, 0, 2]
    with pytest.raises(ValueError, match="no weight"):
        apportion(3, [0, 0])


def test_tensor_parallel_gives_every_device_the_same_number_of_heads_and_shards_of_every_layer() -> None:
    observation = replace(roomy(quickstart()), partition=SHARDED)
    placement = make_policy("tensor-parallel", {}).decide(observation, None)
    for layer in range(12):
        for kind, each in (("head", 3), ("ffn", 1)):
            blocks = [block for block in placement.devices if (block.layer, block.kind) == (layer, kind)]
            where = [placement.devices[block] for block in blocks]
            assert [where.count(name) for name in "abcd"] == [each] * 4
    hubs = [placement.devices[Block("sum", layer, 1)] for layer in range(12)]
    assert hubs == list("aaabbbcccddd")


def test_galaxys_heads_are_in_proportion_to_capacity_and_its_overflow_goes_elsewhere() -> None:
    observation = roomy(quickstart())  # memory at 1.9, 2.2, 1.5 and 1.2 GB/s, which decides a batch of one
    placement = make_policy("galaxy", {}).decide(observation, None)
    heads = [device for block, device in placement.devices.items() if block.kind == "head"]
    shares = [heads.count(name) / len(heads) for name in "abcd"]
    assert shares == pytest.approx([1.9 / 6.8, 2.2 / 6.8, 1.5 / 6.8, 1.2 / 6.8], abs=1 / 24)
    tight = quickstart()
    squeezed = make_policy("galaxy", {}).decide(tight, None)
    assert shortages(tight, None, squeezed) == []


# --- dynamic-threshold ------------------------------------------------------------------------------------------


def test_dynamic_threshold_moves_only_off_devices_that_are_over_and_only_to_those_that_stay_under() -> None:
    policy = make_policy("dynamic-threshold", {"memory": 0.8, "deadline": "10 s"})
    big = replace(quickstart(), devices=tuple(replace(v, available_bytes=400 * MIB) for v in quickstart().devices))
    first = policy.decide(big, None)
    needs = Draft(cost_model(big), first, first).end_bytes
    full = max(range(4), key=lambda device: needs[device])
    views = tuple(
        replace(view, available_bytes=int(needs[full] / 0.9) if number == full else 400 * MIB)
        for number, view in enumerate(big.devices)
    )
    later = replace(big, tokens_done=8, devices=views)
    second = policy.decide(later, first)
    moves = first.moves_to(second)
    assert moves and {source for _, source, _ in moves} == {later.devices[full].name}
    after = Draft(cost_model(later), second, second).end_bytes
    assert all(need <= 0.8 * view.available_bytes for need, view in zip(after, views, strict=True))


def test_dynamic_threshold_moves_nothing_below_its_thresholds_however_much_it_would_pay() -> None:
    policy = make_policy("dynamic-threshold", {"memory": 1.0, "deadline": "10 s"})
    first = policy.decide(quickstart(), None)
    assert policy.decide(quickstart(tokens_done=32, b_rate_bps=1e6), first) is first


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("dynamic-threshold", {"memory": 1.5}, "memory is 1.5, but it must be a fraction over 0, at most 1"),
        ("dynamic-threshold", {"deadline": "0 s"}, "deadline must be longer than 0 s"),
        ("layerwise", {"reserve": "no"}, "reserve is 'no', but it must be true or false"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(name: str, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_policy(name, options)


# --- devices of no use -----------------------------------------------------------------------------------------


USELESS = ("no memory", "a byte less than a block", "no way there", "no way back")


@pytest.mark.parametrize(
    ("name", "useless", "partition"),
    [
        *product(("tensor-parallel", "galaxy", "round-robin"), USELESS, (Partition(), Partition(8, True))),
        *product(("edgeshard", "layerwise", "greedy", "resource-aware", "headroom"), USELESS[::2], (Partition(),)),
        ("dynamic-threshold", "no memory", Partition()),
    ],
)
def test_a_device_of_no_use_changes_no_decision(name: str, useless: str, partition: Partition) -> None:
    observation = replace(quickstart(), partition=partition)
    block = min(size for kind, size, _ in kinds_at(observation, observation.final_length) if kind != "sum")
    if "less" in useless and partition.ffn_shards > 1 and name not in ("tensor-parallel", "galaxy"):
        block = 1  # a sum may be placed there
    room = {"no memory": 0, "a byte less than a block": block - 1}.get(useless, 2**40)
    rates = {"no way there": (1e9, 0.0), "no way back": (0.0, 1e9)}.get(useless, (1e9, 1e9))
    policy = make_policy(name, {})
    policy.reset(1)
    with suppress(Infeasible):
        wanted = policy.decide(observation, None)
        for place in (0, 4):
            views = list(observation.devices)
            views.insert(place, DeviceView("z", room, 9e9, 9e10, 1e9))
            links = {**observation.links, "z": LinkView(*rates, 1e-4, 1e-4)}
            policy.reset(1)
            found = policy.decide(replace(observation, devices=tuple(views), links=links), None)
            assert found.devices == wanted.devices


def test_a_device_that_cannot_be_reached_is_used_where_nothing_else_will_do() -> None:
    observation = quickstart()
    links = {**observation.links, "c": replace(observation.links["c"], up_bps=0.0)}
    views = [replace(view, available_bytes=view.available_bytes // (1 if view.name in "ac" else 4))
             for view in observation.devices]  # fmt: skip
    without = replace(observation, links=links, devices=tuple(view for view in views if view.name != "c"))
    assert any_placement(without) is None
    seen = replace(observation, links=links, devices=tuple(views))
    if any_placement(seen) is not None:
        assert make_policy("greedy", {}).decide(seen, None).on("c")


def test_edgeshard_pins_its_first_layer_unless_told_or_in_a_model_of_one_layer() -> None:
    observation = quickstart()
    roomy = tuple(replace(view, available_bytes=2**32) for view in observation.devices)
    fast = tuple(replace(v, streaming_Bps=v.streaming_Bps * (50 if v.name == "b" else 1)) for v in roomy)
    for layers, option, wanted in ((2, None, "a"), (2, True, "a"), (2, False, "b"), (1, None, "b"), (1, True, "a")):
        seen = replace(observation, shape=replace(observation.shape, layers=layers), devices=fast)
        options = {} if option is None else {"pin_source": option}
        assert layer_devices(make_policy("edgeshard", options).decide(seen, None))[0] == wanted
    with pytest.raises(ConfigError, match="pin_source is 'no'"):
        make_policy("edgeshard", {"pin_source": "no"})
