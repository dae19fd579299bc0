"""Finer parts have the weights of the whole, and add up to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from decoder_cases import CUTS, ODD, SEED, SMALL, WIDE
from hypothesis import given
from hypothesis import strategies as st

from testbed.decoder.choice import best_choice, choice_of, logits_digest
from testbed.decoder.memory import map_tensors
from testbed.decoder.partial import add_complete, add_up
from testbed.decoder.reference import Reference
from testbed.decoder.weights import RandomWeights, Tensors
from testbed.placement.blocks import ATTENTION, FFN, WHOLE, Partition, tensors_of
from testbed.placement.tree import tree_roots
from testbed.shape import ModelShape

GATED = replace(SMALL, name="gated", gated_ffn=True, biases=False)


def filled(shape: ModelShape, partition: Partition, kind: str, index: int = 0) -> Tensors:
    tensors = map_tensors(tensors_of(shape, kind, partition))
    RandomWeights(shape, SEED, partition).fill(kind, 1, index, tensors)
    return tensors


@pytest.mark.parametrize("shape", [SMALL, ODD, WIDE, GATED], ids=lambda shape: shape.name)
def test_shards_of_an_ffn_are_its_columns_and_rows(shape: ModelShape) -> None:
    count = 4
    whole = filled(shape, WHOLE, "ffn")
    shards = [filled(shape, Partition(count), "ffn", index) for index in range(count)]
    for shard in shards:
        assert torch.equal(shard["norm_weight"], whole["norm_weight"])
    assert torch.equal(torch.cat([shard["out_weight"] for shard in shards]), whole["out_weight"])
    width = shape.ffn_width // count
    if shape.gated_ffn:
        gate, up = whole["in_weight"].chunk(2, dim=1)
        assert torch.equal(torch.cat([shard["in_weight"][:, :width] for shard in shards], dim=1), gate)
        assert torch.equal(torch.cat([shard["in_weight"][:, width:] for shard in shards], dim=1), up)
        return
    assert torch.equal(torch.cat([shard["in_weight"] for shard in shards], dim=1), whole["in_weight"])
    assert torch.equal(torch.cat([shard["in_bias"] for shard in shards]), whole["in_bias"])
    assert torch.equal(filled(shape, Partition(count), "sum", FFN)["bias"], whole["out_bias"])


@pytest.mark.parametrize("shape", [SMALL, ODD, WIDE], ids=lambda shape: shape.name)
def test_heads_carry_the_rows_of_proj_that_their_outputs_meet(shape: ModelShape) -> None:
    rows = Partition(1, proj_rows=True)
    whole = filled(shape, WHOLE, "proj")
    heads = [filled(shape, rows, "head", group) for group in range(shape.kv_heads)]
    assert torch.equal(torch.cat([head["proj_weight"] for head in heads]), whole["weight"])
    assert torch.equal(filled(shape, rows, "sum", ATTENTION)["bias"], whole["bias"])
    for group, head in enumerate(heads):
        assert torch.equal(head["qkv_weight"], filled(shape, WHOLE, "head", group)["qkv_weight"])


@pytest.mark.parametrize("tied", [True, False])
def test_shards_of_the_lm_head_are_its_rows_and_the_last_is_filled_up_with_zeros(tied: bool) -> None:
    shape = replace(SMALL, vocab=61, tied_embedding=tied)
    cut = Partition(vocab_shards=5)
    whole = map_tensors(tensors_of(shape, "embed"))
    RandomWeights(shape, SEED).fill("embed", 0, 0, whole)
    assert ("lm_head" in whole) != tied
    assert "lm_head" not in dict(tensors_of(shape, "embed", cut))
    shards = [map_tensors(tensors_of(shape, "vocab", cut)) for _ in range(5)]
    for index, shard in enumerate(shards):
        RandomWeights(shape, SEED, cut).fill("vocab", 0, index, shard)
    rows = torch.cat([shard["rows"] for shard in shards])
    assert torch.equal(rows[:61], whole["tokens" if tied else "lm_head"])
    assert rows.shape[0] == 65 and not rows[61:].any()


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.integers(1, 5), st.randoms())
def test_the_best_of_the_shards_choices_is_the_wholes_argmax_and_ties_go_to_the_lowest_index(
    values: list[int], rows: int, chance: Any
) -> None:
    logits = torch.tensor(values, dtype=torch.float32)
    shards = list(enumerate(logits.split(rows)))
    chance.shuffle(shards)
    held = [[index for index, _ in shards[turn::2]] for turn in range(min(2, len(shards)))]
    sent = [torch.cat([choice_of(p, i * rows) for i, p in shards[turn::2]], dim=1) for turn in range(len(held))]
    assert best_choice(held, sent) == (values.index(max(values)), logits_digest(logits, rows))


@pytest.mark.parametrize("partition", CUTS[1:], ids=str)
@pytest.mark.parametrize("shape", [SMALL, ODD], ids=lambda shape: shape.name)
def test_a_finer_cut_is_the_same_model_up_to_rounding(shape: ModelShape, partition: Partition) -> None:
    def logits(cut: Partition) -> torch.Tensor:
        return Reference(shape, RandomWeights(shape, SEED, cut), 16, cut).forward([3, 1, 4, 1, 5], 0)

    torch.testing.assert_close(logits(partition), logits(WHOLE), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 3), min_size=n, max_size=n))))
def test_partial_sums_add_up_to_the_same_bits_wherever_they_are(case: tuple[int, list[int]]) -> None:
    count, where = case
    leaves = torch.randn(count, 3, 8, generator=torch.Generator().manual_seed(count))  # (leaves, rows, D)
    held = [[leaf for leaf in range(count) if where[leaf] == device] for device in range(4)]
    held = [leaves_of for leaves_of in held if leaves_of]
    results = [add_complete(indices, [leaves[index] for index in indices]) for indices in held]
    for indices, result in zip(held, results, strict=True):
        assert result.shape == (3, 8 * len(tree_roots(indices)))
    alone = [add_complete([index], [leaves[index]]) for index in range(count)]
    together = add_up(held, results, 8)
    assert torch.equal(together, add_up([[index] for index in range(count)], alone, 8))
    torch.testing.assert_close(together, leaves.sum(0))
