"""The policy `paper`: each of its rules on a case computed by hand, and what holds for all cases.

The model has one layer: four heads of 6 pages and 7168 operations, proj of 4 pages and 8192 operations, and the FFN of
33 pages and 65,536 operations, all at the interval's last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import observations

from testbed.errors import ConfigError
from testbed.placement.blocks import PAGE_BYTES, Partition, Placement, blocks_of, pinned_bytes
from testbed.placement.cost.memory import Infeasible
from testbed.placement.cost.model import cost_model, interval_cost
from testbed.placement.latency import transfer_seconds
from testbed.placement.local.draft import Draft
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.placement.policies import make_policy
from testbed.placement.policies.paper import WEIGHTS, Scores
from testbed.shape import ModelShape

SHAPE = ModelShape(
    "one layer", layers=1, width=64, heads=4, kv_heads=4, head_dim=16, ffn_width=256, vocab=64, positions=128,
    learned_positions=False, qkv_bias=False, proj_bias=False, ffn_bias=False, norm_bias=False,
)  # fmt: skip
HEADS, PROJ, FFN = range(4), 4, 5  # slots
MEMORY_BOUND = "100 s"  # a deadline against which no block takes any time


def fleet(
    pages: Mapping[str, int], flops: Mapping[str, float] | None = None, rate: float = 1e9, done: int = 0
) -> Observation:
    """A star around `a`; each device has so many pages for blocks, and 1 MFLOP/s unless `flops` says otherwise."""
    pinned = pinned_bytes(SHAPE, Partition())
    views = tuple(
        DeviceView(name, own * PAGE_BYTES + (pinned if name == "a" else 0), 1e15, (flops or {}).get(name, 1e6), 1e9)
        for name, own in pages.items()
    )
    return Observation(
        SHAPE, Partition(), "a", views, {name: LinkView(rate, rate, 0.0, 0.0) for name in pages},
        prompt_tokens=9, tokens_done=done, tokens_max=done + 8, interval=8,
    )  # fmt: skip


def scores_of(observation: Observation, deadline_s: float, weighted: bool = False) -> Scores:
    weights = WEIGHTS if weighted else None
    return Scores(Draft(cost_model(observation), None, None, reserve=False), deadline_s, weights)


def where(placement: Placement) -> list[str]:
    return [placement.devices[block] for block in blocks_of(SHAPE)]


def everything_on(device: str) -> Placement:
    return Placement(dict.fromkeys(blocks_of(SHAPE), device))


# --- order and scores ---------------------------------------------------------------------------------------


def test_blocks_come_in_descending_demand_of_memory_or_of_compute() -> None:
    observation = fleet({"a": 50, "b": 50})
    assert scores_of(observation, 100.0).order == [FFN, *HEADS, PROJ]  # a head has more bytes than proj
    assert scores_of(observation, 0.01).order == [FFN, PROJ, *HEADS]  # and fewer operations


@pytest.mark.parametrize("weighted", [False, True])
def test_a_score_combines_memory_compute_and_communication_ratios(weighted: bool) -> None:
    observation = fleet({"a": 50, "b": 100}, {"b": 4e6}, rate=1e6)
    scores = scores_of(observation, 0.2, weighted)
    home = transfer_seconds(observation.path("b", "a"), 256)
    memory, compute, communication = (33 / 50, 33 / 100), (0.065536 / 0.2, 0.016384 / 0.2), (0.0, home / 0.2)
    for (score, device), *ratios in zip(scores.scores(FFN, [0, 1]), memory, compute, communication, strict=True):
        weighed = 0.3 * ratios[0] + 0.4 * ratios[1] + 0.3 * ratios[2]
        assert score == pytest.approx(weighed if weighted else max(ratios)), device


def test_ratios_refer_to_what_the_other_blocks_leave() -> None:
    observation = fleet({"a": 50, "b": 100})
    draft = Draft(cost_model(observation), everything_on("b"), everything_on("b"), reserve=False)
    scores = Scores(draft, 0.2)
    here = 0.2 - 4 * 0.007168 - 0.008192 - 0.065536  # seconds that all blocks leave of the deadline on b
    ((on_b, _),) = scores.scores(HEADS[0], [1])
    assert on_b == pytest.approx(max(6 / (100 - 61 + 6), 0.007168 / (here + 0.007168)))
    ((on_a, _),) = scores.scores(HEADS[0], [0])
    assert on_a == pytest.approx(max(6 / 50, 0.007168 / 0.2))


# --- the first placement -------------------------------------------------------------------------------------


def test_each_block_goes_to_the_device_with_the_lowest_score() -> None:
    placement = make_policy("paper", {"deadline": MEMORY_BOUND}).decide(fleet({"a": 40, "b": 50}), None)
    # The FFN to b (33/50), which leaves 17 pages; the heads to a (6/40 to 6/22); proj to b (4/17 against 4/16).
    assert where(placement) == ["a", "a", "a", "a", "b", "b"]


def test_a_time_ratio_over_one_only_means_slow() -> None:
    observation = fleet({"a": 100, "b": 100}, {"b": 2e6})
    placement = make_policy("paper", {"deadline": "1 ms"}).decide(observation, None)
    assert placement.devices[blocks_of(SHAPE)[FFN]] == "b"  # 32.8 times the deadline there, 65.5 times on a


CROWDED = {"a": 37, "b": 15, "c": 12}
FAST_SOURCE = {"a": 1e8}


def test_backtracking_moves_earlier_blocks_for_one_that_fits_nowhere() -> None:
    # a: the FFN, which leaves 4 pages. b: proj (0.512, as c), then the second head. c: the first and the third head.
    # The fourth head needs 6 pages, but a has 4 left, b 5 and c none. So proj goes from b to a, and the head to b.
    placement = make_policy("paper", {"deadline": "16 ms"}).decide(fleet(CROWDED, FAST_SOURCE), None)
    assert where(placement) == ["c", "b", "c", "b", "a", "a"]


def test_where_backtracking_makes_no_room_the_policy_finds_no_placement() -> None:
    with pytest.raises(
        Infeasible, match=r"paper found no placement that fits after 0 tokens: for head\(0,3\), device b"
    ):
        make_policy("paper", {"deadline": "16 ms"}).decide(fleet(CROWDED | {"a": 36}, FAST_SOURCE), None)


# --- later decisions ------------------------------------------------------------------------------------------


def test_a_block_moves_where_migration_and_inference_delay_fall_together() -> None:
    observation, old = fleet({"a": 100, "b": 100}, {"b": 1e8}, done=8), everything_on("a")
    new = make_policy("paper", {}).decide(observation, old)
    assert old.moves_to(new) and interval_cost(observation, old, new) < interval_cost(observation, old, old)


def test_nothing_moves_where_the_delays_would_rise() -> None:
    observation, old = fleet({"a": 100, "b": 100}, {"b": 1e8}, rate=1e5, done=8), everything_on("a")
    assert make_policy("paper", {"deadline": MEMORY_BOUND}).decide(observation, old) is old


def test_only_the_device_with_the_lowest_score_is_considered() -> None:
    # b has most room but is slow; a head on c would pay, but scores 6/7 there.
    observation, old = fleet({"a": 65, "b": 120, "c": 7}, {"b": 1e4, "c": 1e9}, done=8), everything_on("a")
    assert make_policy("paper", {"deadline": MEMORY_BOUND}).decide(observation, old) is old
    better = old.with_moves([(blocks_of(SHAPE)[0], "c")])
    assert interval_cost(observation, old, better) < interval_cost(observation, old, old)


def test_a_device_with_a_score_over_one_gets_no_block_for_the_sake_of_delay() -> None:
    observation, old = fleet({"a": 100, "b": 100}, {"b": 1e8}, done=8), everything_on("a")
    assert make_policy("paper", {"deadline": "50 us"}).decide(observation, old) is old


def test_the_largest_block_leaves_a_device_that_can_no_longer_hold_its_own() -> None:
    observation, old = fleet({"a": 60, "b": 120}, {"b": 1e4}, done=8), everything_on("a")
    new = make_policy("paper", {"deadline": MEMORY_BOUND}).decide(observation, old)
    assert [(str(block), target) for block, _, target in old.moves_to(new)] == [("ffn(0)", "b")]


def test_what_must_leave_and_fits_nowhere_is_refused() -> None:
    with pytest.raises(Infeasible, match="paper found no placement that fits after 8 tokens"):
        make_policy("paper", {}).decide(fleet({"a": 60, "b": 3}, done=8), everything_on("a"))


# --- for all cases --------------------------------------------------------------------------------------------

tight = observations(tightness=st.sampled_from([0.9, 1.1, 1.5, 3.0]))
scorings = st.sampled_from(["max", "weighted"])


def decisions(observation: Observation, score: str, memory: float) -> list[Mapping[object, str] | None]:
    """The first placement and the one after half of the memory of the last device by name has gone, or None."""
    policy = make_policy("paper", {"score": score})
    policy.reset(1)
    last = max(view.name for view in observation.devices)
    views = tuple(
        replace(view, available_bytes=int(view.available_bytes * (memory if view.name == last else 1)))
        for view in observation.devices
    )
    found: list[Mapping[object, str] | None] = []
    placement: Placement | None = None
    for now in (observation, replace(observation, tokens_done=8, devices=views)):
        try:
            placement = policy.decide(now, placement)
        except Infeasible:
            return [*found, None]
        found.append(placement.devices)
    return found


@settings(max_examples=60, deadline=None)
@given(tight, scorings, st.sampled_from([0.6, 1.0]), st.randoms(use_true_random=False))
def test_the_order_of_devices_changes_nothing(observation: Observation, score: str, memory: float, random) -> None:  # type: ignore[no-untyped-def]
    devices = list(observation.devices)
    random.shuffle(devices)
    shuffled = replace(observation, devices=tuple(devices))
    assert decisions(shuffled, score, memory) == decisions(observation, score, memory)


@settings(max_examples=30, deadline=None)
@given(tight, scorings, st.sampled_from([0.6, 1.0]))
def test_a_device_without_memory_changes_nothing(observation: Observation, score: str, memory: float) -> None:
    view = replace(observation.devices[0], name="A", available_bytes=0)
    more = replace(
        observation, devices=(view, *observation.devices), links={**observation.links, "A": LinkView(1e9, 1e9, 0, 0)}
    )
    assert decisions(more, score, memory) == decisions(observation, score, memory)


@settings(max_examples=40, deadline=None)
@given(tight, scorings)
def test_decisions_are_the_same_each_time(observation: Observation, score: str) -> None:
    assert decisions(observation, score, 0.6) == decisions(observation, score, 0.6)


def test_the_weights_are_those_of_memory_compute_and_communication() -> None:
    observation = fleet({"a": 70, "b": 100}, {"b": 1e5})
    by_memory = make_policy("paper", {"score": "weighted", "weights": [1, 0, 0]}).decide(observation, None)
    by_compute = make_policy("paper", {"score": "weighted", "weights": [0, 1, 0]}).decide(observation, None)
    assert where(by_memory)[FFN] == "b" and where(by_compute)[FFN] == "a"
    assert make_policy("paper", {"score": "weighted", "weights": [0.3, 0.4, 0.3]}).decide(
        observation, None
    ) == make_policy("paper", {"score": "weighted"}).decide(observation, None)


@pytest.mark.parametrize("weights", [[0.4, 0.6], 0.4, [0.4, -0.3, 0.3], [0.4, True, 0.3], [float("inf"), 0, 0]])
def test_other_weights_are_refused(weights: object) -> None:
    with pytest.raises(ConfigError, match="policy paper: weights is .*, but it must be three numbers of at least 0"):
        make_policy("paper", {"score": "weighted", "weights": weights})
    with pytest.raises(ConfigError, match="weights are those of score: weighted, and score is 'max'"):
        make_policy("paper", {"weights": [0.4, 0.3, 0.3]})


@pytest.mark.parametrize("score", ["min", None, ["max"]])
def test_another_score_is_refused_by_name(score: object) -> None:
    with pytest.raises(ConfigError, match="policy paper: score is .*, but it must be max or weighted"):
        make_policy("paper", {"score": score})
