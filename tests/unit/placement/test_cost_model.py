"""Migration delay, migrated bytes and the cost of an interval."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from placement_cases import any_partition, networked, observations, placed, quickstart, random_placements

from testbed.models.presets import PRESETS
from testbed.placement.blocks import (
    Block,
    Placement,
    block_flops,
    block_read_bytes,
    blocks_of,
    embed_read_bytes,
    lm_head_read_bytes,
    payload_bytes,
    resident_bytes,
    state_bytes,
)
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import (
    BULK_WIRE_RATIO,
    MIGRATION_HANDSHAKE_S,
    cached_length,
    chunk_rows,
    cost_model,
    interval_cost,
    migration_delay,
    moved_bytes,
    prefill_latency,
    token_latency,
)
from testbed.placement.latency import block_time
from testbed.placement.local.draft import Draft
from testbed.placement.observation import Observation
from testbed.placement.plan import make_plan, x_payload
from testbed.shape import WeightFormats


def _spread(observation: Observation) -> Placement:
    return Placement({block: "abcd"[i % 4] for i, block in enumerate(blocks_of(observation.shape))})


def test_nothing_moved_costs_nothing() -> None:
    observation = quickstart(tokens_done=8)
    placement = _spread(observation)
    assert migration_delay(observation, placement, placement, 30) == 0
    assert migration_delay(observation, None, placement, 30) == 0


def test_staged_weights_load_from_storage_and_only_the_cache_travels() -> None:
    observation = quickstart(tokens_done=8)
    old = _spread(observation)
    head = Block("head", 0, 1)  # on b
    new = old.with_moves([(head, "d")])
    cache, weights = (
        state_bytes(observation.shape, head, 31),
        payload_bytes(observation.shape, head, 0, with_weights=True),
    )
    assert moved_bytes(observation, head, 31) == (cache, weights)
    path = 3e-4 + 1e-3
    assert migration_delay(observation, old, new, 31) == pytest.approx(weights / 9e7 + path + MIGRATION_HANDSHAKE_S)
    shipped = replace(observation, weights="shipped")
    assert moved_bytes(shipped, head, 31) == (cache + weights, 0)
    slowest = (cache + weights) * BULK_WIRE_RATIO * 8 / 5e7
    assert migration_delay(shipped, old, new, 31) == pytest.approx(slowest + path + MIGRATION_HANDSHAKE_S)


def test_cached_positions_are_none_before_prefill_and_then_all_but_the_next_tokens() -> None:
    assert cached_length(quickstart()) == 0
    assert cached_length(quickstart(tokens_done=8)) == 24 + 8 - 1


def test_prompt_chunks_are_full_but_the_last() -> None:
    assert chunk_rows(70, 32) == (32, 32, 6)
    assert chunk_rows(64, 32) == (32, 32)
    observation = quickstart()
    placement = _spread(observation)
    assert prefill_latency(observation, placement, 16) == prefill_latency(observation, placement, (16, 8))


def test_a_larger_chunk_reads_the_weights_less_often() -> None:
    observation = quickstart()
    placement = Placement(dict.fromkeys(blocks_of(observation.shape), "a"))
    assert prefill_latency(observation, placement, 2) > 1.5 * prefill_latency(observation, placement, 4)


@settings(max_examples=150, deadline=None)
@given(placed(any_partition), st.integers(1, 30))
def test_the_mean_of_first_and_last_token_stands_for_the_interval(
    case: tuple[Observation, Placement], done: int
) -> None:
    assume(case[0].shape.window is None)  # an interval in which a window fills up is taken for a little longer
    observation = replace(case[0], tokens_done=done)
    plan = make_plan(observation, case[1])
    lengths = range(observation.length, observation.final_length + 1)
    exact = sum(token_latency(observation, plan, length) for length in lengths)
    assert interval_cost(observation, None, case[1]) == pytest.approx(exact, rel=1e-3)


@settings(max_examples=150, deadline=None)
@given(st.one_of(observations(cuts=any_partition), networked(any_partition).map(lambda case: case[0])), st.data())
def test_a_draft_agrees_with_the_plain_functions_after_any_moves(observation: Observation, data: st.DataObject) -> None:
    observation = replace(observation, tokens_done=data.draw(st.sampled_from([0, 8, 16])))
    names = [view.name for view in observation.devices]
    old = data.draw(random_placements(observation, names))
    draft = Draft(cost_model(observation), old, old)
    slots = st.tuples(st.integers(0, len(draft.blocks) - 1), st.integers(0, len(names) - 1))
    undo = draft.apply(data.draw(st.lists(slots, max_size=12)))
    new = draft.placement(old)
    lm_head_and_embedding = cost_model(observation).source_seconds(draft.model.source)
    expected = interval_cost(observation, old, new) - observation.interval_tokens * lm_head_and_embedding
    home = cost_model(observation).source_seconds(draft.model.source, lm_head=False)
    assert draft.cost - observation.interval_tokens * home == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert dict(zip(names, draft.end_bytes, strict=True)) == device_needs(observation, new, observation.final_length)
    draft.take_back(undo)
    assert draft.placement(old) is old
    assert draft.migration == 0


@settings(max_examples=150, deadline=None)
@given(st.one_of(observations(cuts=any_partition), networked(any_partition).map(lambda case: case[0])), st.data())
def test_moves_are_tried_where_they_fit_and_may_cost_less_and_leave_no_trace_elsewhere(
    observation: Observation, data: st.DataObject
) -> None:
    observation = replace(observation, tokens_done=data.draw(st.sampled_from([0, 8, 16])))
    names = [view.name for view in observation.devices]
    old = data.draw(random_placements(observation, names))
    draft, plain = (Draft(cost_model(observation), old, old) for _ in range(2))
    slots, devices = st.integers(0, len(draft.blocks) - 1), st.integers(0, len(names) - 1)
    for chosen in data.draw(st.lists(st.dictionaries(slots, devices, max_size=8), max_size=4)):
        moves = [(slot, device) for slot, device in chosen.items() if draft.where[slot] != device]
        before = (draft.where[:], draft.terms[:], draft.cost)
        below = data.draw(st.sampled_from([float("inf"), draft.cost, draft.cost * 0.9, draft.cost * 1.1]))
        undo = draft.try_shifts(list(chosen.items()), below)
        plainly = plain.apply(moves)
        fit = all(plain.fits(device) for _, device in moves)
        if undo is None:
            assert not moves or not fit or plain.cost >= below * (1 - 1e-12)
            plain.take_back(plainly)
            assert (draft.where, draft.terms, draft.cost) == before
        else:
            assert moves and fit
        assert (draft.where, draft.terms, draft.cost) == (plain.where, plain.terms, plain.cost)
        assert [draft.fits(d) for d in range(len(names))] == [plain.fits(d) for d in range(len(names))]


def test_a_block_takes_the_slower_of_computing_and_streaming() -> None:
    observation = quickstart()
    fast, slow = observation.devices[0], replace(observation.devices[1], compute_flops=1e6)
    assert block_time(observation.shape, Block("proj", 0), slow, 9) == pytest.approx(2 * 768 * 768 / 1e6)
    assert block_time(observation.shape, Block("proj", 0), fast, 9) == pytest.approx((768 * 768 + 768) * 4 / 1.9e9)


def test_a_window_bounds_what_a_token_sees_and_reads_of_its_cache_but_not_what_is_kept() -> None:
    plain, head = PRESETS["gpt2"], Block("head", 0)
    windowed, later = replace(plain, window=10), replace(plain, window=10, window_from=6)
    for length in (3, 10):
        assert block_flops(windowed, head, length, 3) == block_flops(plain, head, length, 3)
        assert block_read_bytes(windowed, head, length) == block_read_bytes(plain, head, length)
    seen = (9 + 10 + 10 + 10) * 4 * 64  # four rows, the last of which is the twelfth
    assert block_flops(windowed, head, 12, 4) == 2 * 768 * 192 * 4 + seen
    assert block_read_bytes(windowed, head, 12) == block_read_bytes(plain, head, 10)
    assert resident_bytes(windowed, head, 900) == resident_bytes(plain, head, 900)
    assert block_flops(later, head, 12, 4) == block_flops(plain, head, 12, 4), "some layers see everything"


def test_bytes_follow_from_the_format_of_each_role() -> None:
    roles = WeightFormats("q4_1", "q8_0", "float16", "bfloat16", "q8_0", "float32", "q4_0")
    shape = replace(PRESETS["tiny-llama"], weights=roles, kv_format="float16", wire_format="bfloat16")
    norm = 128 * 4
    sent = {kind: payload_bytes(shape, Block(kind, 0), 0, True) for kind in ("head", "proj", "ffn")}
    assert sent == {"head": 128 * 128 // 32 * 20 + norm, "proj": 128 * 128 // 32 * 34, "ffn": 3 * 256 * 128 * 2 + norm}
    assert state_bytes(shape, Block("head", 0), 7) == 2 * 7 * 32 * 2
    assert x_payload(shape, 3) == 3 * 128 * 2
    assert lm_head_read_bytes(shape) == 256 * 128 // 32 * 34, "a tied head is the table"
    assert lm_head_read_bytes(replace(shape, tied_embedding=False)) == 256 * 128 // 32 * 18
    assert embed_read_bytes(shape, 5) == 5 * 128 // 32 * 34
