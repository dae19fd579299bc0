"""Blocks as numbers, called slots, so that an algorithm finds its way by arithmetic and not by names."""

from __future__ import annotations

from functools import lru_cache

from testbed.placement.blocks import ATTENTION, FFN, Partition, blocks_of
from testbed.shape import ModelShape


class Slots:
    """A model's blocks, numbered in the order of `blocks_of`, in which a token meets them.

    All layers have the same blocks, so the slots of a layer are one range. It begins with the heads. With a hub, the
    block where the heads' results meet follows: the projection or the attention sum. Then comes the FFN: one whole
    block, or its shards and, with a hub, their sum. The shards of the LM head come after all layers.
    """

    def __init__(self, shape: ModelShape, partition: Partition) -> None:
        self.blocks = blocks_of(shape, partition)
        self.layers = shape.layers
        self.hub = partition.hub
        vocab = partition.vocab_shards if partition.vocab_shards > 1 else 0
        self.vocab = range(len(self.blocks) - vocab, len(self.blocks))
        self.per_layer = self.vocab.start // shape.layers
        self.heads_per_layer = shape.kv_heads
        self.shards_per_layer = self.per_layer - shape.kv_heads - 2 * partition.hub  # 0 where the FFN is whole
        self.kinds = tuple(dict.fromkeys(block.kind for block in self.blocks))
        self.kind_of = [self.kinds.index(block.kind) for block in self.blocks]
        self.examples = [self.blocks[self.kind_of.index(kind)] for kind in range(len(self.kinds))]
        # Of each block of a layer: (layer, half, its number in the half as a bit) for a head or a shard, else None.
        self.leaves = [self._leaf(slot) for slot in range(self.vocab.start)]

    def _leaf(self, slot: int) -> tuple[int, int, int] | None:
        layer, half = self.half_of(slot)
        parts = self.shards(layer) if half == FFN else self.heads(layer)
        return (layer, half, 1 << (slot - parts.start)) if slot in parts else None

    def layer_of(self, slot: int) -> int:
        """The layer of a block that belongs to one."""
        return slot // self.per_layer

    def half_of(self, slot: int) -> tuple[int, int]:
        """(layer, ATTENTION or FFN) of a block that belongs to a layer."""
        layer, place = divmod(slot, self.per_layer)
        return layer, FFN if place >= self.heads_per_layer + self.hub else ATTENTION

    def of_layer(self, layer: int) -> range:
        """All blocks of a layer."""
        return range(layer * self.per_layer, (layer + 1) * self.per_layer)

    def attention(self, layer: int) -> range:
        """The blocks of a layer's attention half: its heads and, with a hub, where their results meet."""
        first = layer * self.per_layer
        return range(first, first + self.heads_per_layer + self.hub)

    def ffn(self, layer: int) -> range:
        """The blocks of a layer's FFN half: the whole FFN, or its shards and, with a hub, their sum."""
        return range(self.attention(layer).stop, (layer + 1) * self.per_layer)

    def heads(self, layer: int) -> range:
        """The heads of a layer."""
        first = layer * self.per_layer
        return range(first, first + self.heads_per_layer)

    def shards(self, layer: int) -> range:
        """The FFN shards of a layer; none where the FFN is whole."""
        first = self.attention(layer).stop
        return range(first, first + self.shards_per_layer)

    def attention_target(self, layer: int) -> int:
        """The block where the heads' results meet. Only with a hub."""
        return layer * self.per_layer + self.heads_per_layer

    def ffn_target(self, layer: int) -> int:
        """The block where the layer ends: the whole FFN, or the sum of its shards. Only with a hub."""
        return (layer + 1) * self.per_layer - 1


@lru_cache(maxsize=64)
def slots_of(shape: ModelShape, partition: Partition) -> Slots:
    """The slots of a model that is cut this way. They are never changed, so all drafts share them."""
    return Slots(shape, partition)
