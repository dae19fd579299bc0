"""A draft says which of its slots is which block, however the model is cut."""

from __future__ import annotations

import pytest
from placement_cases import quickstart

from testbed.placement.blocks import ATTENTION, FFN, Partition
from testbed.placement.cost.model import cost_model
from testbed.placement.local.draft import Draft

CUTS = {
    "whole": Partition(),
    "shards": Partition(ffn_shards=4),
    "rows and words": Partition(4, proj_rows=True, vocab_shards=3),
    "without a hub": Partition(4, proj_rows=True, vocab_shards=3, exchange="all-to-all"),
}


@pytest.mark.parametrize("partition", CUTS.values(), ids=CUTS.keys())
def test_slots_of_heads_shards_and_halves_are_the_blocks_of_that_name(partition: Partition) -> None:
    draft = Draft(cost_model(quickstart(partition=partition)), None, None)
    for layer in range(draft.layers):
        heads = [slot for slot, block in enumerate(draft.blocks) if (block.kind, block.layer) == ("head", layer)]
        shards = [slot for slot, block in enumerate(draft.blocks) if block.layer == layer and block.part]
        assert (list(draft.heads(layer)), list(draft.shards(layer))) == (heads, shards)
    for slot, block in enumerate(draft.blocks):
        if block.kind == "vocab":
            assert slot in draft.slots.vocab
            continue
        attends = block.kind in ("head", "proj") or (block.kind == "sum" and block.index == ATTENTION)
        assert draft.half_of(slot) == (block.layer, ATTENTION if attends else FFN)
        half = draft.slots.attention(block.layer) if attends else draft.slots.ffn(block.layer)
        assert slot in half and slot in draft.slots.of_layer(block.layer)
        assert draft.slots.layer_of(slot) == block.layer
        if partition.hub:
            target = draft.slots.attention_target(block.layer) if attends else draft.slots.ffn_target(block.layer)
            assert (slot == target) == (block.kind in ("proj", "sum") or (block.kind == "ffn" and not block.part))
