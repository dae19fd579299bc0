"""Cutting finer: shards of FFNs, rows of proj with their heads, and the sums where partial results meet."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import MIB, observations, partitions, placed, quickstart, shapes

from testbed.errors import ConfigError
from testbed.models.presets import PRESETS
from testbed.placement.blocks import (
    WHOLE,
    Block,
    Partition,
    Placement,
    block_flops,
    block_read_bytes,
    blocks_of,
    parse_block,
    payload_bytes,
)
from testbed.placement.cost.memory import Infeasible, check_complete, shortages
from testbed.placement.cost.model import cost_model, interval_cost, token_latency
from testbed.placement.local.draft import Draft
from testbed.placement.observation import Observation
from testbed.placement.patterns import is_pattern, matches
from testbed.placement.plan import make_plan
from testbed.placement.policies import POLICIES, make_policy
from testbed.placement.tree import Root, align, aligned_roots, tree_roots
from testbed.shape import ModelShape

FINE = [Partition(4), Partition(1, proj_rows=True), Partition(8, proj_rows=True), Partition(2, vocab_shards=8)]

# Decisions and interval costs from before anything could be cut finer: (policy, tokens done, placement, seconds).
BEFORE = [
    ("round-robin", 0, "bfd066dae13dd2b5", 2.521543985403509),
    ("round-robin", 48, "7b06ac2427519054", 3.0780904494545456),
    ("round-robin", 56, "7b06ac2427519054", 6.278627444363636),
    ("greedy", 0, "07acbad1f1e371b0", 2.003408245588517),
    ("greedy", 48, "194e2fe2cf1d0afd", 2.9234760240893145),
    ("greedy", 56, "accc5d5c144f774b", 4.538495643989532),
    ("paper-search", 0, "f0a7639786bee3fb", 1.9846447023157896),
    ("paper-search", 48, "3849014fe8a5f902", 2.878614501614035),
    ("paper-search", 56, "7c5fcadfd7a3bc03", 3.4133926297670043),
]


@pytest.mark.parametrize("name", ["round-robin", "greedy", "paper-search"])
def test_the_model_in_its_usual_blocks_is_placed_and_charged_as_it_always_was(name: str) -> None:
    policy, placement, found = make_policy(name, {}), None, []
    for observation in (quickstart(), quickstart(48, b_mib=72), quickstart(56, b_rate_bps=1e6)):
        wanted = policy.decide(observation, placement)
        text = " ".join(f"{block}={device}" for block, device in sorted(wanted.devices.items()))
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        found.append((name, observation.tokens_done, digest, interval_cost(observation, placement, wanted)))
        placement = wanted
    assert found == [row for row in BEFORE if row[0] == name]


# --- the tree ------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 19)))
def test_roots_cover_the_leaves_once_each_complete_and_none_could_be_larger(leaves: set[int]) -> None:
    roots = tree_roots(leaves)
    covered = [leaf for root in roots for leaf in range(root.start, root.start + root.size)]
    assert covered == sorted(leaves)
    for root in roots:
        assert root.size & (root.size - 1) == 0 and root.start % root.size == 0
        twice = 2 * root.size
        parent = range(root.start // twice * twice, root.start // twice * twice + twice)
        assert not leaves >= set(parent)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_aligned_leaves_are_dealt_completely_and_have_as_many_roots_as_their_counts_ones(counts: list[int]) -> None:
    dealt = align(counts)
    assert [len(leaves) for leaves in dealt] == counts
    assert sorted(leaf for leaves in dealt for leaf in leaves) == list(range(sum(counts)))
    for count, leaves in zip(counts, dealt, strict=True):
        assert len(tree_roots(leaves)) == aligned_roots(count) == bin(count).count("1")


def test_three_of_four_leaves_are_a_pair_and_a_single() -> None:
    assert tree_roots([0, 1, 3]) == (Root(0, 2), Root(3, 1))
    assert tree_roots([1, 2]) == (Root(1, 1), Root(2, 1))
    assert align([1, 3]) == [(2,), (0, 1, 3)]


# --- blocks --------------------------------------------------------------------------------------------------


@given(shapes(), partitions)
def test_names_of_blocks_are_different_read_back_and_stand_in_token_order(
    shape: ModelShape, partition: Partition
) -> None:
    blocks = blocks_of(shape, partition)
    assert [parse_block(str(block)) for block in blocks] == list(blocks) == sorted(blocks)
    assert [str(parse_block(str(block))) for block in blocks] == [str(block) for block in blocks]
    assert len({str(block) for block in blocks}) == len(blocks)


def test_a_layer_in_shards_has_its_blocks_in_the_order_a_token_meets_them() -> None:
    shape = replace(PRESETS["tiny"], layers=1, heads=2, kv_heads=2)
    names = [str(block) for block in blocks_of(shape, Partition(2, proj_rows=True))]
    assert names == ["head(0,0)", "head(0,1)", "sum(0,attn)", "ffn(0,0)", "ffn(0,1)", "sum(0,ffn)"]
    assert Block("ffn", 0, 0) == blocks_of(shape, Partition(2))[3]


@pytest.mark.parametrize(
    "name", ["vocab(0,1)", "ffn(0,attn)", "sum(0)", "sum(0,1)", "head(0)", "head(0,ffn)", "proj(0,1)", "ffn()"]
)
def test_what_no_block_is_called_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a block: write head"):
        parse_block(name)


def test_patterns_mean_what_they_say() -> None:
    shape = replace(PRESETS["tiny"], layers=2)
    blocks = blocks_of(shape, Partition(2, proj_rows=True))

    def meant(pattern: str) -> list[str]:
        assert is_pattern(pattern)
        return [str(block) for block in blocks if matches(pattern, block)]

    assert meant("ffn(*)") == ["ffn(0,0)", "ffn(0,1)", "ffn(1,0)", "ffn(1,1)"]
    assert meant("ffn(1)") == ["ffn(1,0)", "ffn(1,1)"]
    assert meant("ffn(*, 1)") == ["ffn(0,1)", "ffn(1,1)"]
    assert meant("sum(*,ffn)") == ["sum(0,ffn)", "sum(1,ffn)"]
    assert meant("sum(0,*)") == ["sum(0,attn)", "sum(0,ffn)"]
    assert meant("proj(*)") == meant("vocab(*)") == []
    assert matches("vocab(*)", Block("vocab", 0, 3)) and not matches("vocab(1)", Block("vocab", 0, 3))
    assert len(meant("*")) == len(blocks)
    assert not is_pattern("head(0)") and not is_pattern("sum(*)") and not is_pattern("ffn(*,attn)")
    assert not matches("ffn(0,*)", Block("ffn", 0)) and matches("ffn(0)", Block("ffn", 0))


@pytest.mark.parametrize("partition", FINE)
def test_the_parts_do_the_work_of_the_whole_and_hold_its_weights_with_a_norm_for_each_shard(
    partition: Partition,
) -> None:
    shape = PRESETS["gpt2"]

    def total(cut: Partition) -> tuple[float, float, float]:
        blocks = [block for block in blocks_of(shape, cut) if block.kind not in ("sum", "vocab")]
        sums = [block for block in blocks_of(shape, cut) if block.kind == "sum"]
        flops = sum(block_flops(shape, block, 30, 3, cut) for block in blocks)
        read = sum(block_read_bytes(shape, block, 30, cut) for block in [*blocks, *sums])
        sent = sum(payload_bytes(shape, block, 30, True, cut) for block in [*blocks, *sums])
        return flops, read, sent

    norms = shape.layers * (partition.ffn_shards - 1) * 2 * shape.width * 4
    flops, read, sent = total(WHOLE)
    assert total(partition) == pytest.approx((flops, read + norms, sent + norms), rel=1e-12)


# --- costs ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(placed())
def test_a_first_placement_is_charged_for_aligned_parts_and_has_them(case: tuple[Observation, Placement]) -> None:
    observation, placement = case
    draft = Draft(cost_model(observation), placement, None)
    found = draft.placement(None)
    model = draft.model
    around = model.source_seconds(model.source) - model.source_seconds(model.source, lm_head=False)
    assert (around == 0) == (observation.partition.vocab_shards > 1)
    expected = interval_cost(observation, None, found) - observation.interval_tokens * around
    assert draft.cost == pytest.approx(expected, rel=1e-6, abs=1e-9)
    for block, device in placement.devices.items():
        if block.kind in ("proj", "sum"):
            assert found.devices[block] == device
        if block.kind == "vocab":
            assert found.devices[block] == device
    for device in {*placement.devices.values()}:
        assert len(found.on(device)) == len(placement.on(device))


def test_scattered_shards_send_more_than_aligned_ones_and_cost_more() -> None:
    observation = quickstart(partition=Partition(4))
    where = dict.fromkeys(blocks_of(observation.shape, observation.partition), "a")
    pair = Placement(where | {Block("ffn", 0, shard): "b" for shard in (2, 3)})
    apart = Placement(where | {Block("ffn", 0, shard): "b" for shard in (1, 2)})
    assert make_plan(observation, pair).layers[0].ffn.work == {"a": (0, 1), "b": (2, 3)}
    assert token_latency(observation, pair, 30) < token_latency(observation, apart, 30)


def test_shards_side_by_side_take_the_time_of_the_slowest_way_worked_out_by_hand() -> None:
    observation = quickstart(partition=Partition(2))
    shape = observation.shape
    where = dict.fromkeys(blocks_of(shape, observation.partition), "a")
    whole = token_latency(observation, Placement(where), 30)
    split = token_latency(observation, Placement(where | {Block("ffn", 3, 1): "b"}), 30)
    shard = (2 * 768 * 1536 + 1536 + 2 * 768) * 4  # bytes of a shard: in, out, bias of the inner part, norm
    wire = 768 * 4 + 96 + 66 * 3  # y one way, one partial sum the other
    there = wire * 8 / 1e8 + 5e-4 + 1e-4 + shard / 2.2e9 + wire * 8 / 1e8 + 5e-4 + 1e-4
    assert there > shard / 1.9e9
    assert whole - split == pytest.approx(2 * shard / 1.9e9 - there, rel=1e-6)


def test_the_lm_head_in_shards_is_worked_out_by_hand() -> None:
    observation = quickstart(partition=Partition(vocab_shards=2))
    where = dict.fromkeys(blocks_of(observation.shape, observation.partition), "a")
    shard = 25129 * 768 * 4  # bytes of half the rows, one of them filled up
    alone = token_latency(observation, Placement(where), 30)
    assert alone - token_latency(observation, Placement(where), 30, lm_head=False) > 2 * shard / 1.9e9
    split = token_latency(observation, Placement(where | {Block("vocab", 0, 1): "b"}), 30)
    there = (768 * 4 + 96 + 66 * 3 + 24 + 96 + 66) * 8 / 1e8 + 2 * (5e-4 + 1e-4) + shard / 2.2e9
    assert alone - split == pytest.approx(2 * shard / 1.9e9 - max(there, shard / 1.9e9), rel=1e-6)


# --- policies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition", FINE, ids=str)
@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"exact", "single"}))  # minutes; no device holds it all
def test_every_policy_places_and_moves_finer_blocks(name: str, partition: Partition) -> None:
    policy, twin, placement = make_policy(name, {}), make_policy(name, {}), None
    squeezed = 100 if partition.vocab_shards == 1 else 150  # a tied embedding is held twice where the LM head is cut
    for change in ({}, {"tokens_done": 48, "b_mib": squeezed}, {"tokens_done": 56, "b_rate_bps": 1e6}):
        observation = quickstart(**change, partition=partition)
        if name == "static" and placement is not None:
            assert policy.decide(observation, placement) is placement
            continue
        wanted = policy.decide(observation, placement)
        check_complete(observation, wanted)
        assert shortages(observation, placement, wanted) == []
        assert twin.decide(observation, placement).devices == wanted.devices
        placement = wanted


def test_shards_pay_where_memory_is_slow_and_links_are_quick() -> None:
    cost = {}
    for shards in (1, 4):
        observation = quickstart(partition=Partition(shards))
        links = {name: replace(link, up_bps=1e9, down_bps=1e9) for name, link in observation.links.items()}
        views = tuple(replace(view, streaming_Bps=5e8, available_bytes=400 * MIB) for view in observation.devices)
        observation = replace(observation, links=links, devices=views)
        cost[shards] = interval_cost(observation, None, make_policy("paper-search", {}).decide(observation, None))
    assert cost[4] < 0.8 * cost[1]


@settings(max_examples=40, deadline=None)
@given(observations(tightness=st.floats(0.8, 2)), st.sampled_from(["greedy", "paper-search", "round-robin"]))
def test_squeezed_devices_shed_what_they_must_or_the_policy_says_it_cannot(observation: Observation, name: str) -> None:
    policy = make_policy(name, {})
    try:
        first = policy.decide(observation, None)
        views = tuple(replace(v, available_bytes=int(v.available_bytes * 0.9)) for v in observation.devices)
        later = replace(observation, devices=views, tokens_done=8)
        second = policy.decide(later, first)
    except Infeasible:
        return
    assert shortages(later, first, second) == []
    check_complete(later, second)
