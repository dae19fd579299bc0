"""The blocks that one device holds, and their arithmetic.

Every operation is a kernel in which each row of the input, and each row of a matrix, has its own sum in a fixed order.
So the bits of a block's result depend neither on the other blocks of the device nor on how a prompt is cut into chunks.
Results are rounded to the format of what travels, also where they stay on the device. The single-process reference
calls the same functions with all blocks in one store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from testbed.decoder import kernels
from testbed.decoder.choice import choice_of
from testbed.decoder.kernels import Attention, Floats, Packed
from testbed.decoder.memory import KvCache, Layout, map_tensors
from testbed.decoder.partial import add_complete, add_up
from testbed.decoder.rope import Tables, rope_tables
from testbed.decoder.weights import WeightSource
from testbed.errors import RunFailed
from testbed.placement.blocks import (
    ATTENTION,
    WHOLE,
    Block,
    Partition,
    replica_bytes,
    resident_bytes,
    rows_and_columns,
    tensors_of,
    vocab_rows,
    weight_bytes,
)
from testbed.shape import ModelShape


class Weights:
    """The tensors of one block in one map."""

    def __init__(self, shape: ModelShape, kind: str, partition: Partition) -> None:
        layout = tensors_of(shape, kind, partition)
        self.tensors: dict[str, Packed] = map_tensors(
            [Layout(name, shape.format_of(kind, name), *rows_and_columns(dims)) for name, dims in layout]
        )
        self.vectors: dict[str, Floats] = {  # norms and biases, each (n,)
            name: self.tensors[name].data.view(np.float32) for name, dims in layout if len(dims) == 1
        }

    def __getitem__(self, name: str) -> Packed:
        return self.tensors[name]


class BlockStore:
    """The weights and KV caches of some blocks, and the pinned embedding if this device is the source.

    `positions` is the length of the run's longest sequence (prompt and tokens). A KV cache reserves that much address
    space and becomes resident as it is written.
    """

    def __init__(self, shape: ModelShape, weights: WeightSource, positions: int, partition: Partition = WHOLE) -> None:
        self.shape = shape
        self.partition = partition
        self.positions = positions
        self._source = weights
        self._weights: dict[Block, Weights] = {}
        self._caches: dict[Block, KvCache] = {}
        self._replicas: dict[Block, KvCache] = {}  # of heads that other devices have
        self._attention: dict[Block, Attention] = {}
        self._embed: Weights | None = None
        self._rope: Tables | None = None
        if shape.rope is not None:
            self._rope = rope_tables(shape.rope, shape.head_dim, positions)

    # --- holding ---------------------------------------------------------------------------------------

    @property
    def blocks(self) -> list[Block]:
        """The blocks in this store, in the order in which a token passes them."""
        return sorted(self._weights)

    def reserve(self, block: Block) -> None:
        """Map memory for a block; none is resident until it is filled. A replica of its cache becomes its cache."""
        if block in self._weights:
            raise ValueError(f"{block} is already here")
        self._weights[block] = Weights(self.shape, block.kind, self.partition)
        if block.kind == "head":
            replica = self._replicas.pop(block, None)
            self._caches[block] = self._new_cache() if replica is None else replica
            self._attention[block] = self._attention_of(block)

    def _new_cache(self) -> KvCache:
        return KvCache(self.positions, self.shape.head_dim, self.shape.kv_format)

    def fill(self, block: Block) -> None:
        """Load the weights of a reserved block from the device's own storage."""
        self._source.fill(block.kind, block.layer, block.index, self._weights[block].tensors)

    def add(self, block: Block) -> None:
        """Reserve a block and fill it."""
        self.reserve(block)
        self.fill(block)

    def add_pinned(self) -> None:
        """Load the embedding, the final norm and the LM head, because this device is the source."""
        self._embed = Weights(self.shape, "embed", self.partition)
        self._source.fill("embed", 0, 0, self._embed.tensors)

    def drop(self, block: Block) -> None:
        """Drop a block; its pages return to the kernel."""
        del self._weights[block]
        self._caches.pop(block, None)
        self._attention.pop(block, None)

    def held_bytes(self, length: int) -> int:
        """The bytes of everything in this store at sequence length `length`, in whole pages."""
        pinned = weight_bytes(self.shape, "embed", self.partition) if self._embed else 0
        own = sum(resident_bytes(self.shape, block, length, self.partition) for block in self._weights)
        return pinned + own + len(self._replicas) * replica_bytes(self.shape, length)

    # --- replicas --------------------------------------------------------------------------------------

    @property
    def replicas(self) -> Collection[Block]:
        """The heads of other devices whose caches have replicas here."""
        return self._replicas.keys()

    def keep(self, block: Block) -> None:
        """Map memory for a replica of a head's cache; rows become resident as they are written."""
        self._replicas[block] = self._new_cache()

    def replica(self, block: Block) -> KvCache:
        """The replica of a head's cache."""
        return self._replicas[block]

    def drop_replica(self, block: Block) -> None:
        """Drop a replica; its pages return to the kernel."""
        del self._replicas[block]

    # --- moving ----------------------------------------------------------------------------------------

    def payload(self, block: Block, length: int, with_weights: bool) -> list[memoryview]:
        """The bytes of a block to send at sequence length `length`: its weights if asked, then keys and values.

        The cache of a head that is not here is that of its replica; raises RunFailed when there is none.
        """
        parts: list[memoryview] = []
        if with_weights:
            parts += self.weight_parts(block)
        if block.kind == "head":
            cache = self._caches.get(block, self._replicas.get(block))
            if cache is None:
                raise RunFailed(f"the cache of {block} is not here any more")
            parts += list(cache.payload(length))
        return parts

    def cache(self, block: Block) -> KvCache:
        """The keys and values of a head in this store."""
        return self._caches[block]

    def weight_parts(self, block: Block) -> list[memoryview]:
        """The bytes of a block's weights, tensor by tensor."""
        return [memoryview(tensor.data) for tensor in self._weights[block].tensors.values()]

    # --- computing -------------------------------------------------------------------------------------

    def embed(self, ids: Sequence[int], position: int) -> Floats:
        """The sum of token and position embeddings: (rows, D)."""
        x = kernels.rows_of(self._pinned["tokens"], ids)  # (rows, D)
        if self.shape.learned_positions:
            x = x + kernels.rows_of(self._pinned["positions"], range(position, position + len(ids)))
        return self._rounded(x, "the embedding")

    def heads(self, layer: int, groups: Sequence[int], x: Floats, position: int) -> Floats:
        """Attention of some KV groups for the rows of x (rows, D) starting at `position`: (rows, n·r·d).

        If heads carry their rows of proj, the result is the roots of their partial sums: (rows, roots·D).
        """
        blocks = [Block("head", layer, group) for group in groups]
        normed = self._norm(x, self._weights[blocks[0]])  # (rows, D); every head carries the layer's norm
        outputs = [self._attend(block, normed, position) for block in blocks]  # each (rows, r·d)
        what = f"the result of the heads of layer {layer}"
        if self.partition.proj_rows:
            attended = dict(zip(groups, outputs, strict=True))

            def leaf(group: int) -> Floats:
                own = self._weights[Block("head", layer, group)]
                return kernels.matmul(own["proj_weight"], attended[group])

            return self._in_wire_format(what, lambda name: add_complete(groups, leaf, name))
        return self._rounded(outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1), what)

    def _attention_of(self, block: Block) -> Attention:
        """How the queries of one KV group attend to its cache."""
        shape, cache, weights = self.shape, self._caches[block], self._weights[block]
        scale = 1 / math.sqrt(shape.head_dim)
        if shape.attention_scale_by_layer:
            scale /= block.layer + 1
        return Attention(
            cache.format, cache.keys, cache.values, self.positions, shape.queries_per_group, shape.head_dim, scale,
            self._rope, weights.vectors.get("q_norm"), weights.vectors.get("k_norm"), shape.norm_epsilon,
            shape.window if block.layer >= shape.window_from else None,
        )  # fmt: skip

    def _attend(self, block: Block, normed: Floats, position: int) -> Floats:
        weights = self._weights[block]
        qkv = kernels.matmul(weights["qkv_weight"], normed, weights.vectors.get("qkv_bias"))  # (rows, (r+2)d)
        try:
            return kernels.attend(self._attention[block], qkv, position)
        except OverflowError as error:
            raise RunFailed(f"{block}: {error}: set model.kv_format to bfloat16 or float32") from error

    def proj(self, layer: int, attended: Floats, x: Floats) -> Floats:
        """Output projection and residual: attended (rows, H·d), x (rows, D) -> y (rows, D)."""
        weights = self._weights[Block("proj", layer)]
        out = kernels.matmul(weights["weight"], attended, weights.vectors.get("bias"))
        return self._rounded(x + out, f"the residual after proj({layer})")

    def ffn(self, layer: int, y: Floats) -> Floats:
        """Feed-forward network and residual: y (rows, D) -> x of the next layer (rows, D)."""
        weights = self._weights[Block("ffn", layer)]
        out = kernels.matmul(weights["out_weight"], self._inner(weights, self._norm(y, weights)),
                             weights.vectors.get("out_bias"))  # fmt: skip
        return self._rounded(y + out, f"the residual after ffn({layer})")

    def ffn_shards(self, layer: int, shards: Sequence[int], y: Floats) -> Floats:
        """Some shards of a feed-forward network for y (rows, D): the roots of their partial sums (rows, roots·D)."""
        weights = {shard: self._weights[Block("ffn", layer, shard)] for shard in shards}
        normed = self._norm(y, weights[shards[0]])  # (rows, D); every shard carries the norm

        def leaf(shard: int) -> Floats:
            return kernels.matmul(weights[shard]["out_weight"], self._inner(weights[shard], normed))

        what = f"a partial sum of the FFN of layer {layer}"
        return self._in_wire_format(what, lambda name: add_complete(shards, leaf, name))

    def _inner(self, weights: Weights, normed: Floats) -> Floats:
        """The activations (rows, F or F/K) between the matrices of a feed-forward network."""
        inner = kernels.matmul(
            weights["in_weight"], normed, weights.vectors.get("in_bias")
        )  # (rows, F), gated (rows, 2F)
        if self.shape.gated_ffn:
            return kernels.silu_gate(inner)
        return kernels.gelu(inner) if self.shape.activation == "gelu" else kernels.gelu_new(inner)

    def sum_up(
        self, layer: int, half: int, held: Sequence[Sequence[int]], results: Sequence[Floats], x: Floats
    ) -> Floats:
        """The end of a half-layer: all partial sums added along the tree, plus the bias and the residual x (rows, D).

        `results` has the roots (rows, roots·D) of each device, and `held` the heads or shards that it has.
        """
        block = Block("sum", layer, half)
        bias = self._weights[block].vectors.get("bias")
        what = f"a partial sum of the {'attention' if half == ATTENTION else 'FFN'} of layer {layer}"
        total = self._in_wire_format(what, lambda name: add_up(held, results, self.shape.width, name))
        return self._rounded(x + (total if bias is None else total + bias), f"the residual after {block}")

    def logits(self, x: Floats) -> Floats:
        """Final norm and LM head for the last row of x (rows, D): (V,)."""
        head = self._pinned["tokens" if self.shape.tied_embedding else "lm_head"]
        return kernels.matmul(head, self.final_row(x))[0]

    def final_row(self, x: Floats) -> Floats:
        """The last row of x (rows, D) after the final norm: (1, D)."""
        return self._rounded(self._norm(x[-1:], self._pinned), "the final norm")

    def shard_logits(self, shard: int, row: Floats) -> Floats:
        """The logits (V/M,) of one shard of the LM head for a row (1, D); the last shard may have fewer."""
        found = kernels.matmul(self._weights[Block("vocab", 0, shard)]["rows"], row)[0]
        return found[: self.shape.vocab - shard * vocab_rows(self.shape, self.partition)]

    def choices(self, shards: Sequence[int], row: Floats) -> Floats:
        """The choices (1, 6·shards) of these shards of the LM head for a row (1, D)."""
        rows = vocab_rows(self.shape, self.partition)
        return np.concatenate([choice_of(self.shard_logits(shard, row), shard * rows) for shard in shards], axis=1)

    @property
    def _pinned(self) -> Weights:
        assert self._embed is not None, "only the source embeds and chooses"
        return self._embed

    def _norm(self, x: Floats, weights: Weights) -> Floats:
        if self.shape.norm == "rms":
            return kernels.rms_norm(x, weights.vectors["norm_weight"], self.shape.norm_epsilon)
        return kernels.layer_norm(
            x, weights.vectors["norm_weight"], weights.vectors.get("norm_bias"), self.shape.norm_epsilon
        )

    def _rounded(self, x: Floats, what: str) -> Floats:
        return self._in_wire_format(what, lambda name: kernels.round_to(name, x))

    def _in_wire_format(self, what: str, rounded_to: Callable[[str], Floats]) -> Floats:
        """Values rounded to the format of what travels; raises RunFailed if one of them is too large for it."""
        wire_format = self.shape.wire_format
        try:
            return rounded_to(wire_format)
        except OverflowError as error:
            largest = float(np.abs(rounded_to("float32")).max())
            raise RunFailed(
                f"{what} reaches {largest:.6g}, which is too large for {wire_format}: set model.wire_format to "
                "bfloat16 or float32"
            ) from error
