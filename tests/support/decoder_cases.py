"""Small models for the tests of decoder, worker and transport, and the memory of this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights, Tensors, WeightSource, write_rows
from testbed.placement.blocks import WHOLE, Block, Partition, blocks_of
from testbed.shape import ModelShape

SEED = 7
SMALL = ModelShape("small", 2, 32, 4, 4, 8, 64, 64, 64)
ODD = ModelShape("odd", 3, 36, 3, 3, 12, 84, 61, 64)  # rows that do not start on cache lines
WIDE = ModelShape("wide", 1, 768, 12, 12, 64, 3072, 128, 64)  # one layer with gpt2's own matrices

# Finer partitions of these models. All numbers of heads and shards differ.
CUTS = [
    WHOLE,
    Partition(2),
    Partition(4, vocab_shards=3),
    Partition(1, proj_rows=True),
    Partition(4, proj_rows=True),
    Partition(vocab_shards=5),
    Partition(4, proj_rows=True, exchange="all-to-all"),
    Partition(2, proj_rows=True, vocab_shards=3, exchange="all-to-all"),
]

Where = dict[Block, str]


class Ones:
    """A source of weights that are all one, which is quicker than random numbers, or all another number."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        for tensor in tensors.values():
            row = np.full((1, tensor.columns), self.value, np.float32)
            for number in range(tensor.rows):
                write_rows(tensor, number, row)


def stores_for(shape: ModelShape, where: Where, source: str = "a", weights: WeightSource | None = None) -> dict[
    str, BlockStore
]:  # fmt: skip
    """A store for each device with its blocks; the store of the source has the embedding too."""
    stores = {}
    for device in sorted({source, *where.values()}):
        stores[device] = BlockStore(shape, weights or RandomWeights(shape, SEED), shape.positions)
        for block in sorted(where):
            if where[block] == device:
                stores[device].add(block)
    stores[source].add_pinned()
    return stores


def forward(stores: dict[str, BlockStore], where: Where, source: str, ids: list[int], position: int) -> np.ndarray:
    """The logits (V,) of a pass in which each device computes all its heads of a layer in one call."""
    shape = stores[source].shape
    d = shape.queries_per_group * shape.head_dim
    x = stores[source].embed(ids, position)
    for layer in range(shape.layers):
        outputs: dict[int, np.ndarray] = {}
        for device in sorted(stores):
            groups = [g for g in range(shape.kv_heads) if where[Block("head", layer, g)] == device]
            if groups:
                out = stores[device].heads(layer, groups, x.copy(), position)
                outputs |= {group: out[:, slot * d : (slot + 1) * d] for slot, group in enumerate(groups)}
        attended = np.concatenate([outputs[group] for group in range(shape.kv_heads)], axis=1)
        y = stores[where[Block("proj", layer)]].proj(layer, attended, x)
        x = stores[where[Block("ffn", layer)]].ffn(layer, y)
    return stores[source].logits(x)


def placements(shape: ModelShape, devices: str = "abc", partition: Partition = WHOLE) -> st.SearchStrategy[Where]:
    """Placements of each block on any device."""
    blocks = blocks_of(shape, partition)
    names = st.lists(st.sampled_from(devices), min_size=len(blocks), max_size=len(blocks))
    return names.map(lambda where: dict(zip(blocks, where, strict=True)))


def move(block: Block, source: BlockStore, target: BlockStore, length: int, with_weights: bool) -> None:
    """The steps of a migration without a network: reserve, load or copy, drop."""
    target.reserve(block)
    if not with_weights:
        target.fill(block)
    sent = source.payload(block, length, with_weights)
    taken = target.payload(block, length, with_weights)
    for here, there in zip(sent, taken, strict=True):
        there[:] = bytes(here)
    source.drop(block)


def anonymous_bytes() -> int:
    """This process's resident anonymous memory (RssAnon), proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024
