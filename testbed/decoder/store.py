"""The blocks that one device holds, and their arithmetic.

Each operation has the same tensor shapes, whatever else the device holds. Attention is computed one KV group at a time,
so the bits of a head's output cannot depend on the other heads. The single-process reference calls the same functions
with all blocks in one store.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from testbed.decoder.choice import choice_of
from testbed.decoder.memory import KvCache, map_tensors
from testbed.decoder.partial import add_complete, add_up
from testbed.decoder.weights import WeightSource
from testbed.placement.blocks import (
    WHOLE,
    Block,
    Partition,
    resident_bytes,
    tensors_of,
    vocab_rows,
    weight_bytes,
)
from testbed.shape import ModelShape


class BlockStore:
    """The weights and KV caches of some blocks, and the pinned embedding if this device is the source.

    `positions` is the length of the run's longest sequence (prompt and tokens). A KV cache reserves that much address
    space and becomes resident as it is written.
    """

    def __init__(self, shape: ModelShape, weights: WeightSource, positions: int, partition: Partition = WHOLE) -> None:
        self.shape = shape
        self.partition = partition
        self.positions = positions
        self._weights = weights
        self._tensors: dict[Block, dict[str, torch.Tensor]] = {}
        self._caches: dict[Block, KvCache] = {}
        self._embed: dict[str, torch.Tensor] = {}

    # --- holding ---------------------------------------------------------------------------------------

    @property
    def blocks(self) -> list[Block]:
        """The blocks in this store, in the order in which a token passes them."""
        return sorted(self._tensors)

    def reserve(self, block: Block) -> None:
        """Map memory for a block; none of it is resident until it is filled."""
        if block in self._tensors:
            raise ValueError(f"{block} is already here")
        self._tensors[block] = map_tensors(tensors_of(self.shape, block.kind, self.partition))
        if block.kind == "head":
            self._caches[block] = KvCache(self.positions, self.shape.head_dim)

    def fill(self, block: Block) -> None:
        """Load the weights of a reserved block from the device's own storage."""
        self._weights.fill(block.kind, block.layer, block.index, self._tensors[block])

    def add(self, block: Block) -> None:
        """Reserve a block and fill it."""
        self.reserve(block)
        self.fill(block)

    def add_pinned(self) -> None:
        """Load the embedding, the final norm and the LM head, because this device is the source."""
        self._embed = map_tensors(tensors_of(self.shape, "embed", self.partition))
        self._weights.fill("embed", 0, 0, self._embed)

    def drop(self, block: Block) -> None:
        """Drop a block; its pages return to the kernel."""
        del self._tensors[block]
        self._caches.pop(block, None)

    def held_bytes(self, length: int) -> int:
        """The bytes of everything in this store at sequence length `length`, in whole pages."""
        pinned = weight_bytes(self.shape, "embed", self.partition) if self._embed else 0
        return pinned + sum(resident_bytes(self.shape, block, length, self.partition) for block in self._tensors)

    # --- moving ----------------------------------------------------------------------------------------

    def payload(self, block: Block, length: int, with_weights: bool) -> list[memoryview]:
        """The bytes of a block to send at sequence length `length`: its weights if asked, then keys and values."""
        parts: list[memoryview] = []
        if with_weights:
            parts += [memoryview(t.view(-1).numpy()).cast("B") for t in self._tensors[block].values()]
        if block.kind == "head":
            parts += list(self._caches[block].payload(length))
        return parts

    # --- computing -------------------------------------------------------------------------------------

    def embed(self, ids: Sequence[int], position: int) -> torch.Tensor:
        """The sum of token and position embeddings: (rows, D)."""
        x = self._embed["tokens"][torch.tensor(ids)]  # (rows, D)
        if self.shape.learned_positions:
            x = x + self._embed["positions"][position : position + len(ids)]
        return x

    def heads(self, layer: int, groups: Sequence[int], x: torch.Tensor, position: int) -> torch.Tensor:
        """Attention of some KV groups for the rows of x (rows, D) starting at `position`: (rows, n·r·d).

        If heads carry their rows of proj, the result is the roots of their partial sums: (rows, roots·D).
        """
        blocks = [Block("head", layer, group) for group in groups]
        normed = self._norm(x, self._tensors[blocks[0]])  # (rows, D); every head carries the layer's norm
        outputs = [self._attend(block, normed, position) for block in blocks]  # each (rows, r·d)
        if not self.partition.proj_rows:
            return torch.cat(outputs, dim=1)
        projected = [out @ self._tensors[block]["proj_weight"] for block, out in zip(blocks, outputs, strict=True)]
        return add_complete(groups, projected)

    def _attend(self, block: Block, normed: torch.Tensor, position: int) -> torch.Tensor:
        weights, cache = self._tensors[block], self._caches[block]
        r, d, rows = self.shape.queries_per_group, self.shape.head_dim, normed.shape[0]
        length = position + rows
        qkv = torch.addmm(weights["qkv_bias"], normed, weights["qkv_weight"])  # (rows, (r+2)d)
        cache.keys[position:length] = qkv[:, r * d : (r + 1) * d]
        cache.values[position:length] = qkv[:, (r + 1) * d :]
        q = qkv[:, : r * d].view(rows, r, d).transpose(0, 1)[None]  # (1, r, rows, d)
        k = cache.keys[None, None, :length].expand(1, r, length, d)  # (1, r, t, d)
        v = cache.values[None, None, :length].expand(1, r, length, d)  # (1, r, t, d)
        mask = None
        if rows > 1:  # row i of the chunk attends to positions up to its own
            mask = torch.ones(rows, length, dtype=torch.bool).tril(position)  # (rows, t)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (1, r, rows, d)
        return out[0].transpose(0, 1).reshape(rows, r * d)

    def proj(self, layer: int, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Output projection and residual: attended (rows, H·d), x (rows, D) -> y (rows, D)."""
        weights = self._tensors[Block("proj", layer)]
        return x + torch.addmm(weights["bias"], attended, weights["weight"])

    def ffn(self, layer: int, y: torch.Tensor) -> torch.Tensor:
        """Feed-forward network and residual: y (rows, D) -> x of the next layer (rows, D)."""
        weights = self._tensors[Block("ffn", layer)]
        inner = torch.addmm(weights["in_bias"], self._norm(y, weights), weights["in_weight"])  # (rows, F)
        return y + torch.addmm(weights["out_bias"], F.gelu(inner, approximate="tanh"), weights["out_weight"])

    def ffn_shards(self, layer: int, shards: Sequence[int], y: torch.Tensor) -> torch.Tensor:
        """Some shards of a feed-forward network for y (rows, D): the roots of their partial sums (rows, roots·D)."""
        weights = [self._tensors[Block("ffn", layer, shard)] for shard in shards]
        normed = self._norm(y, weights[0])  # (rows, D); every shard carries the norm
        partial = []
        for own in weights:
            inner = torch.addmm(own["in_bias"], normed, own["in_weight"])  # (rows, F/K)
            partial.append(F.gelu(inner, approximate="tanh") @ own["out_weight"])  # (rows, D)
        return add_complete(shards, partial)

    def sum_up(
        self, layer: int, half: int, held: Sequence[Sequence[int]], results: Sequence[torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        """The end of a half-layer: all partial sums added along the tree, plus the bias and the residual x (rows, D).

        `results` has the roots (rows, roots·D) of each device, and `held` the heads or shards that it has.
        """
        total = add_up(held, results, self.shape.width)
        return x + (total + self._tensors[Block("sum", layer, half)]["bias"])

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Final norm and LM head for the last row of x (rows, D): (V,)."""
        head = self._embed["tokens" if self.shape.tied_embedding else "lm_head"]
        return F.linear(self.final_row(x), head)[0]

    def final_row(self, x: torch.Tensor) -> torch.Tensor:
        """The last row of x (rows, D) after the final norm: (1, D)."""
        return self._norm(x[-1:], self._embed)

    def shard_logits(self, shard: int, row: torch.Tensor) -> torch.Tensor:
        """The logits (V/M,) of one shard of the LM head for a row (1, D); the last shard may have fewer."""
        found = F.linear(row, self._tensors[Block("vocab", 0, shard)]["rows"])[0]
        return found[: self.shape.vocab - shard * vocab_rows(self.shape, self.partition)]

    def choices(self, shards: Sequence[int], row: torch.Tensor) -> torch.Tensor:
        """The choices (1, 6·shards) of these shards of the LM head for a row (1, D)."""
        rows = vocab_rows(self.shape, self.partition)
        return torch.cat([choice_of(self.shard_logits(shard, row), shard * rows) for shard in shards], dim=1)

    def _norm(self, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.layer_norm(
            x, (self.shape.width,), weights["norm_weight"], weights["norm_bias"], self.shape.norm_epsilon
        )
