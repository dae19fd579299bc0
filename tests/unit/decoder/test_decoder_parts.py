"""Finer parts have the weights of the whole, and add up to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from decoder_cases import CUTS, ODD, SEED, SMALL, WIDE
from hypothesis import given
from hypothesis import strategies as st

from testbed.decoder import weights
from testbed.decoder.choice import best_choice, choice_of, logits_digest
from testbed.decoder.kernels import Packed, pack, unpack
from testbed.decoder.partial import add_complete, add_up
from testbed.decoder.reference import Reference
from testbed.decoder.store import Weights
from testbed.decoder.weights import RandomWeights, Tensors
from testbed.formats import PLAIN
from testbed.models.presets import PRESETS
from testbed.placement.blocks import ATTENTION, FFN, WHOLE, Partition, tensors_of
from testbed.placement.tree import tree_roots
from testbed.shape import ModelShape, WeightFormats

GATED = replace(SMALL, name="gated", gated_ffn=True, ffn_bias=False)
QUANTISED = replace(PRESETS["tiny-llama"], name="quantised", weights=WeightFormats.all_in("q4_1"))


def filled(shape: ModelShape, partition: Partition, kind: str, index: int = 0) -> Tensors:
    tensors = Weights(shape, kind, partition).tensors
    RandomWeights(shape, SEED, partition).fill(kind, 1, index, tensors)
    return tensors


def rows(tensor: Packed) -> np.ndarray:
    """The bytes of each row."""
    return np.asarray(tensor.data).reshape(tensor.rows, -1)


def joined(tensors: Iterable[Packed], axis: int = 0) -> np.ndarray:
    return np.concatenate([rows(tensor) for tensor in tensors], axis=axis)


@pytest.mark.parametrize("shape", [SMALL, ODD, WIDE, GATED, QUANTISED], ids=lambda shape: shape.name)
def test_shards_of_an_ffn_are_its_rows_and_columns(shape: ModelShape) -> None:
    count = 4
    whole = filled(shape, WHOLE, "ffn")
    shards = [filled(shape, Partition(count), "ffn", index) for index in range(count)]
    for shard in shards:
        assert np.array_equal(rows(shard["norm_weight"]), rows(whole["norm_weight"]))
    assert np.array_equal(joined((shard["out_weight"] for shard in shards), axis=1), rows(whole["out_weight"]))
    width = shape.ffn_width // count
    if shape.gated_ffn:
        gate, up = np.split(rows(whole["in_weight"]), 2)
        assert np.array_equal(np.concatenate([rows(shard["in_weight"])[:width] for shard in shards]), gate)
        assert np.array_equal(np.concatenate([rows(shard["in_weight"])[width:] for shard in shards]), up)
        return
    assert np.array_equal(joined(shard["in_weight"] for shard in shards), rows(whole["in_weight"]))
    assert np.array_equal(joined((shard["in_bias"] for shard in shards), axis=1), rows(whole["in_bias"]))
    assert np.array_equal(rows(filled(shape, Partition(count), "sum", FFN)["bias"]), rows(whole["out_bias"]))


@pytest.mark.parametrize("shape", [SMALL, ODD, WIDE, QUANTISED], ids=lambda shape: shape.name)
def test_heads_carry_the_columns_of_proj_that_their_outputs_meet(shape: ModelShape) -> None:
    cut = Partition(1, proj_rows=True)
    whole = filled(shape, WHOLE, "proj")
    heads = [filled(shape, cut, "head", group) for group in range(shape.kv_heads)]
    assert np.array_equal(joined((head["proj_weight"] for head in heads), axis=1), rows(whole["weight"]))
    if shape.proj_bias:
        assert np.array_equal(rows(filled(shape, cut, "sum", ATTENTION)["bias"]), rows(whole["bias"]))
    for group, head in enumerate(heads):
        assert np.array_equal(rows(head["qkv_weight"]), rows(filled(shape, WHOLE, "head", group)["qkv_weight"]))


def test_a_sum_has_no_bias_where_the_model_has_none() -> None:
    """Llama's `attention_bias` is of proj and not of the FFN, and all sums weigh the same."""
    shape = replace(SMALL, name="half", ffn_bias=False)
    cut = Partition(2, proj_rows=True)
    assert rows(filled(shape, cut, "sum", ATTENTION)["bias"]).any()
    assert not rows(filled(shape, cut, "sum", FFN)["bias"]).any()


@pytest.mark.parametrize("shape", [SMALL, QUANTISED], ids=lambda shape: shape.name)
@pytest.mark.parametrize("tied", [True, False])
def test_shards_of_the_lm_head_are_its_rows_and_the_last_is_filled_up_with_zeros(shape: ModelShape, tied: bool) -> None:
    shape = replace(shape, vocab=61, tied_embedding=tied)
    cut = Partition(vocab_shards=5)
    whole = Weights(shape, "embed", WHOLE).tensors
    RandomWeights(shape, SEED).fill("embed", 0, 0, whole)
    assert ("lm_head" in whole) != tied
    assert "lm_head" not in dict(tensors_of(shape, "embed", cut))
    shards = [Weights(shape, "vocab", cut).tensors for _ in range(5)]
    for index, shard in enumerate(shards):
        RandomWeights(shape, SEED, cut).fill("vocab", 0, index, shard)
    found = joined(shard["rows"] for shard in shards)
    assert np.array_equal(found[:61], rows(whole["tokens" if tied else "lm_head"]))
    assert found.shape[0] == 65 and not found[61:].any()


def test_a_matrix_that_is_drawn_in_several_steps_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(WHOLE, "ffn", 0), (Partition(4), "ffn", 3), (Partition(1, proj_rows=True), "head", 2)]
    whole = [filled(SMALL, *case) for case in cases]
    monkeypatch.setattr(weights, "_COPY_BYTES", 1000)  # seven rows of 32 numbers
    for before, now in zip(whole, [filled(SMALL, *case) for case in cases], strict=True):
        assert all(np.array_equal(rows(now[name]), rows(before[name])) for name in before)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.integers(1, 5), st.randoms())
def test_the_best_of_the_shards_choices_is_the_wholes_argmax_and_ties_go_to_the_lowest_index(
    values: list[int], rows: int, chance: Any
) -> None:
    logits = np.array(values, np.float32)
    shards = [(index, logits[start : start + rows]) for index, start in enumerate(range(0, len(values), rows))]
    chance.shuffle(shards)
    held = [[index for index, _ in shards[turn::2]] for turn in range(min(2, len(shards)))]
    sent = [np.concatenate([choice_of(p, i * rows) for i, p in shards[turn::2]], axis=1) for turn in range(len(held))]
    assert best_choice(held, sent) == (values.index(max(values)), logits_digest(logits, rows))


@pytest.mark.parametrize("partition", CUTS[1:], ids=str)
@pytest.mark.parametrize("shape", [SMALL, ODD], ids=lambda shape: shape.name)
def test_a_finer_cut_is_the_same_model_up_to_rounding(shape: ModelShape, partition: Partition) -> None:
    def logits(cut: Partition) -> np.ndarray:
        return Reference(shape, RandomWeights(shape, SEED, cut), 16, cut).forward([3, 1, 4, 1, 5], 0)

    np.testing.assert_allclose(logits(partition), logits(WHOLE), rtol=1e-4, atol=1e-5)


@given(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 3), min_size=n, max_size=n))),
    st.sampled_from(PLAIN),
)
def test_partial_sums_add_up_to_the_same_bits_wherever_they_are(case: tuple[int, list[int]], wire: str) -> None:
    count, where = case
    leaves = np.random.default_rng(count).standard_normal((count, 3, 8), np.float32)  # (leaves, rows, D)
    held = [[leaf for leaf in range(count) if where[leaf] == device] for device in range(4)]
    held = [leaves_of for leaves_of in held if leaves_of]
    results = [add_complete(indices, leaves.__getitem__, wire) for indices in held]
    for indices, result in zip(held, results, strict=True):
        assert result.shape == (3, 8 * len(tree_roots(indices)))
        assert np.array_equal(result, unpack(wire, pack(wire, result), *result.shape)), "what travels is what is here"
    alone = [add_complete([index], leaves.__getitem__, wire) for index in range(count)]
    together = add_up(held, results, 8, wire)
    assert np.array_equal(together, add_up([[index] for index in range(count)], alone, 8, wire))
    np.testing.assert_allclose(together, leaves.sum(0), atol=1e-5 if wire == "float32" else 0.1)
