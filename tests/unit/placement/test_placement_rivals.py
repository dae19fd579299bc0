"""The rivals' policies: what all of them keep to, and hand-checked cases of those that split layers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import product

import pytest
from placement_cases import MIB, quickstart, roomy

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, Partition
from testbed.placement.cost.memory import Infeasible, any_placement, check_complete, kinds_at, shortages
from testbed.placement.cost.model import cost_model, interval_cost
from testbed.placement.local.draft import Draft
from testbed.placement.local.proportional import apportion
from testbed.placement.observation import DeviceView, LinkView
from testbed.placement.policies import POLICIES, headroom, make_policy

SHARDED = Partition(ffn_shards=4)
WORDS = Partition(ffn_shards=4, proj_rows=True, vocab_shards=4)


# --- all of them ------------------------------------------------------------------------------------------------


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
    for name in set(POLICIES) - {"exact"}:  # which static does not ask
        try:
            placement = make_policy(name, {}).decide(observation if name == "static" else whole, None)
        except Infeasible:
            continue
        costs[name] = interval_cost(whole, None, placement)
    assert len(costs) >= 9
    assert costs["static"] == pytest.approx(min(cost for name, cost in costs.items() if name != "static"), rel=1e-9)


def test_static_asks_the_others_with_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Noting(headroom.Headroom):
        def reset(self, seed: int) -> None:
            asked.append(seed)
            super().reset(seed)

    monkeypatch.setattr(headroom, "Headroom", Noting)
    policy = make_policy("static", {})
    policy.reset(7)
    policy.decide(quickstart(), None)
    assert asked == [7]


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
        *product(("edgeshard", "layerwise", "greedy", "paper-search", "headroom"), USELESS[::2], (Partition(),)),
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
