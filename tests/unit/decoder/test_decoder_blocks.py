"""The blocks' maths: bits do not depend on which blocks share a device, nor on whether a head has moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from architecture_cases import POSITIONS, cut_models
from decoder_cases import ODD, SEED, SMALL, WIDE, Ones, Where, forward, move, placements, stores_for
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.decoder.choice import logits_digest
from testbed.decoder.kernels import Floats
from testbed.decoder.reference import Reference, chunk_bounds
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights
from testbed.errors import RunFailed
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE, Block, Partition, blocks_of, payload_bytes, tensors_of
from testbed.shape import ModelShape

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def reference_logits(shape: ModelShape, passes: list[list[int]]) -> list[np.ndarray]:
    reference = Reference(shape, RandomWeights(shape, SEED), shape.positions)
    position, found = 0, []
    for ids in passes:
        found.append(reference.forward(ids, position))
        position += len(ids)
    return found


def passes_of(chunk: int, decoded: int = 3) -> list[list[int]]:
    return [*(PROMPT[start:end] for start, end in chunk_bounds(len(PROMPT), chunk)), *([7 + i] for i in range(decoded))]


def spread_logits(shape: ModelShape, where: Where, passes: list[list[int]], source: str = "a") -> list[np.ndarray]:
    stores = stores_for(shape, where, source)
    position, found = 0, []
    for ids in passes:
        found.append(forward(stores, where, source, ids, position))
        position += len(ids)
    return found


@given(data=st.data(), shape=st.sampled_from([SMALL, ODD]), chunk=st.integers(1, len(PROMPT)))
@settings(max_examples=40)
def test_any_grouping_of_heads_on_any_devices_gives_the_references_bits(
    data: st.DataObject, shape: ModelShape, chunk: int
) -> None:
    where = data.draw(placements(shape))
    source = data.draw(st.sampled_from("abc"))
    passes = passes_of(chunk)
    for spread, alone in zip(spread_logits(shape, where, passes, source), reference_logits(shape, passes), strict=True):
        assert np.array_equal(spread, alone)


@pytest.mark.parametrize("groups", [["a"] * 12, list("abcdefghijkl"), list("abbcccaaaabc")])
def test_gpt2s_own_matrices_give_the_same_bits_in_any_grouping(groups: list[str]) -> None:
    where = dict(zip(blocks_of(WIDE), [*groups, "b", "c"], strict=True))
    passes = passes_of(8, decoded=1)
    for spread, alone in zip(spread_logits(WIDE, where, passes), reference_logits(WIDE, passes), strict=True):
        assert np.array_equal(spread, alone)


@given(data=st.data(), with_weights=st.booleans())
@settings(max_examples=25)
def test_a_block_that_moves_in_the_middle_of_a_sequence_goes_on_with_the_same_bits(
    data: st.DataObject, with_weights: bool
) -> None:
    where = data.draw(placements(SMALL))
    stores = stores_for(SMALL, {**where, Block("proj", 0): "a"}, "a")
    for device in "abc":
        stores.setdefault(device, BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions))
    where[Block("proj", 0)] = "a"
    passes = passes_of(4, decoded=4)
    position = 0
    for ids, alone in zip(passes, reference_logits(SMALL, passes), strict=True):
        for block in data.draw(st.lists(st.sampled_from(blocks_of(SMALL)), max_size=3, unique=True)):
            target = data.draw(st.sampled_from([name for name in "abc" if name != where[block]]))
            move(block, stores[where[block]], stores[target], position, with_weights)
            where[block] = target
        assert np.array_equal(forward(stores, where, "a", ids, position), alone)
        position += len(ids)


def test_a_head_that_arrives_without_its_cache_gives_other_bits() -> None:
    where = dict.fromkeys(blocks_of(SMALL), "a")
    stores = stores_for(SMALL, where)
    forward(stores, where, "a", PROMPT, 0)
    moved = Block("head", 1, 2)
    stores["b"] = BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions)
    stores["b"].add(moved)
    after = forward(stores, {**where, moved: "b"}, "a", [8], len(PROMPT))
    assert not np.array_equal(after, reference_logits(SMALL, [PROMPT, [8]])[-1])


def test_a_later_position_never_changes_what_an_earlier_one_sees() -> None:
    """Causality: a prompt and the same prompt with another last token agree on all rows before it."""
    store = stores_for(SMALL, dict.fromkeys(blocks_of(SMALL), "a"))["a"]
    outputs = [store.heads(0, [0, 1], store.embed(ids, 0), 0) for ids in (PROMPT, [*PROMPT[:-1], 60])]
    assert np.array_equal(outputs[0][:-1], outputs[1][:-1])
    assert not np.array_equal(outputs[0][-1], outputs[1][-1])


def test_a_prefill_in_chunks_gives_the_bits_of_one_pass() -> None:
    whole = reference_logits(SMALL, [PROMPT])[-1]
    for chunk in (1, 3, 4):
        assert np.array_equal(reference_logits(SMALL, passes_of(chunk, decoded=0))[-1], whole)


@given(tokens=st.integers(1, 200), chunk=st.integers(1, 64))
def test_prefill_chunks_cover_the_prompt_in_order(tokens: int, chunk: int) -> None:
    bounds = chunk_bounds(tokens, chunk)
    assert [i for start, end in bounds for i in range(start, end)] == list(range(tokens))
    assert all(end - start == chunk for start, end in bounds[:-1])


def test_greedy_generation_is_repeatable_and_its_digest_tells_one_changed_bit() -> None:
    def generate() -> list[Any]:
        return list(Reference(SMALL, RandomWeights(SMALL, SEED), 64).generate(PROMPT, 12, 4))

    first = generate()
    assert first == generate()
    logits = np.arange(8, dtype=np.float32)
    changed = logits.copy()
    changed.view(np.int32)[3] ^= 1
    assert logits_digest(logits) == logits_digest(logits.copy()) != logits_digest(changed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [PRESETS["tiny"], PRESETS["tiny-llama"]], ids=lambda shape: shape.name)
def test_a_presets_tokens_vary_and_follow_from_the_whole_prompt(shape: ModelShape, seed: int) -> None:
    """Otherwise a wrong bit could not show in the token ids."""

    def generate(prompt: list[int]) -> list[int]:
        reference = Reference(shape, RandomWeights(shape, seed), 80)
        return [token.token_id for token in reference.generate(prompt, 40, 8)]

    ids = generate(PROMPT)
    assert len(set(ids)) > 8
    others = generate([200, *PROMPT[1:]])
    assert sum(one != other for one, other in zip(ids, others, strict=True)) > 20


# --- formats -------------------------------------------------------------------------------------------


def large_logits(weight: float, partition: Partition = WHOLE, **formats: str) -> Floats:
    """The logits of a model all of whose weights are the same large number."""
    return Reference(replace(SMALL, **formats), Ones(weight), 16, partition).forward([1, 2, 3], 0)


@pytest.mark.parametrize(
    ("weight", "partition", "formats", "told"),
    [
        (40.0, WHOLE, {"wire_format": "float16"}, "the residual after proj(0) reaches 6.55771e+07, which is"),
        (100.0, WHOLE, {"wire_format": "float16"}, "the result of the heads of layer 0 reaches 320100, which is too"),
        (20.0, Partition(4, proj_rows=True), {"wire_format": "float16"}, "the result of the heads of layer 0 reaches"),
        (
            100.0,
            WHOLE,
            {"kv_format": "float16"},
            "head(0,0): 48 keys or values are too large for float16: set model",
        ),
    ],
)
def test_a_value_that_float16_cannot_hold_is_named_with_the_remedy(
    weight: float, partition: Partition, formats: dict[str, str], told: str
) -> None:
    with pytest.raises(RunFailed) as caught:
        large_logits(weight, partition, **formats)
    assert told in str(caught.value) and str(caught.value).endswith("to bfloat16 or float32")
    assert np.isfinite(large_logits(weight, partition, **dict.fromkeys(formats, "bfloat16"))).all()


# --- random weights ------------------------------------------------------------------------------------


def filled(shape: ModelShape, block: Block, seed: int = SEED) -> list[bytes]:
    store = BlockStore(shape, RandomWeights(shape, seed), shape.positions)
    store.add(block)
    return [bytes(part) for part in store.payload(block, 0, with_weights=True)]


@given(block=st.sampled_from(blocks_of(SMALL)), others=st.lists(st.sampled_from(blocks_of(SMALL)), unique=True))
@settings(max_examples=25)
def test_random_weights_do_not_depend_on_what_else_is_loaded(block: Block, others: list[Block]) -> None:
    store = BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions)
    for other in others:
        if other != block:
            store.add(other)
    store.add(block)
    assert [bytes(part) for part in store.payload(block, 0, with_weights=True)] == filled(SMALL, block)


def test_every_block_and_every_seed_has_weights_of_its_own() -> None:
    blocks = blocks_of(SMALL)
    weights = {block: filled(SMALL, block) for block in blocks}
    for name in ("qkv_weight", "weight", "in_weight", "out_weight", "in_bias"):
        tensors = [
            weights[block][index]
            for block in blocks
            for index, (found, _) in enumerate(tensors_of(SMALL, block.kind))
            if found == name
        ]
        assert len(set(tensors)) == len(tensors) > 1
    assert filled(SMALL, blocks[0], seed=8) != weights[blocks[0]]


def test_all_heads_of_a_layer_share_its_norm_and_layers_differ() -> None:
    norms = {block: filled(SMALL, block)[:2] for block in blocks_of(SMALL) if block.kind == "head"}
    by_layer = [{tuple(norm) for block, norm in norms.items() if block.layer == layer} for layer in (0, 1)]
    assert [len(found) for found in by_layer] == [1, 1]
    assert by_layer[0] != by_layer[1]


# --- payloads ------------------------------------------------------------------------------------------


@given(cut=cut_models(), length=st.integers(0, POSITIONS), with_weights=st.booleans())
def test_a_payload_has_exactly_the_bytes_the_cost_model_counts(
    cut: tuple[ModelShape, Partition], length: int, with_weights: bool
) -> None:
    shape, partition = cut
    store = BlockStore(shape, RandomWeights(shape, SEED, partition), POSITIONS, partition)
    for block in {block.kind: block for block in blocks_of(shape, partition)}.values():
        store.reserve(block)
        size = sum(len(part) for part in store.payload(block, length, with_weights))
        assert size == payload_bytes(shape, block, length, with_weights, partition)


def test_a_block_cannot_be_taken_in_twice_and_blocks_are_listed_in_token_order() -> None:
    store = BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions)
    for block in reversed(blocks_of(SMALL)):
        store.add(block)
    assert store.blocks == list(blocks_of(SMALL))
    with pytest.raises(ValueError, match=r"head\(0,0\) is already here"):
        store.reserve(Block("head", 0, 0))
