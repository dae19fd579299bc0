"""The blocks one device holds, and what they compute.

Every operation has the same tensor shapes whatever else the device holds: attention is computed one KV
group at a time, so the bits of a head's output cannot depend on its neighbours. The single-process
reference runs these same functions with every block in one store.
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
    state_bytes,
    tensors_of,
    vocab_rows,
    weight_bytes,
)
from testbed.shape import ModelShape


class BlockStore:
    """Weights and KV caches of some blocks, and of the pinned embedding on the source.

    `positions` is the longest sequence of the run (prompt + tokens): KV slabs reserve that much address
    space and become resident as they are written.
    """

    def __init__(
        self, shape: ModelShape, weights: WeightSource, positions: int, partition: Partition = WHOLE
    ) -> None:
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
        """The blocks held, in token order."""
        return sorted(self._tensors)

    def reserve(self, block: Block) -> None:
        """Map memory for a block; nothing is resident until it is filled."""
        if block in self._tensors:
            raise ValueError(f"{block} is already here")
        self._tensors[block] = map_tensors(tensors_of(self.shape, block.kind, self.partition))
        if block.kind == "head":
            self._caches[block] = KvCache(self.positions, self.shape.head_dim)

    def fill(self, block: Block) -> None:
        """Load the weights of a reserved block from the device's own storage."""
        self._weights.fill(block.kind, block.layer, block.index, self._tensors[block])

    def add(self, block: Block) -> None:
        """Reserve and fill."""
        self.reserve(block)
        self.fill(block)

    def add_pinned(self) -> None:
        """Load embedding, final norm and LM head: this device is the source."""
        self._embed = map_tensors(tensors_of(self.shape, "embed", self.partition))
        self._weights.fill("embed", 0, 0, self._embed)

    def drop(self, block: Block) -> None:
        """Let go of a block; its pages go back to the kernel."""
        del self._tensors[block]
        self._caches.pop(block, None)

    def held_bytes(self, length: int) -> int:
        """Bytes of everything held at sequence length `length`, in whole pages."""
        pinned = weight_bytes(self.shape, "embed", self.partition) if self._embed else 0
        return pinned + sum(resident_bytes(self.shape, block, length, self.partition) for block in self._tensors)

    # --- moving ----------------------------------------------------------------------------------------

    def payload(self, block: Block, length: int, with_weights: bool) -> list[memoryview]:
        """The bytes to send for a block at sequence length `length`: weights if asked, keys, values."""
        parts: list[memoryview] = []
        if with_weights:
            parts += [memoryview(t.view(-1).numpy()).cast("B") for t in self._tensors[block].values()]
        if block.kind == "head":
            parts += list(self._caches[block].payload(length))
        return parts

    def payload_size(self, block: Block, length: int, with_weights: bool) -> int:
        """How many bytes `payload` has."""
        weights = sum(t.numel() * t.element_size() for t in self._tensors[block].values()) if with_weights else 0
        return weights + state_bytes(self.shape, block, length)

    # --- computing -------------------------------------------------------------------------------------

    def embed(self, ids: Sequence[int], position: int) -> torch.Tensor:
        """Token and position embeddings: (rows, D)."""
        x = self._embed["tokens"][torch.tensor(ids)]  # (rows, D)
        if self.shape.learned_positions:
            x = x + self._embed["positions"][position : position + len(ids)]
        return x

    def heads(self, layer: int, groups: Sequence[int], x: torch.Tensor, position: int) -> torch.Tensor:
        """Attention of some KV groups for the rows of x (rows, D) starting at `position`: (rows, n·r·d).

        Where heads carry their rows of proj, the roots of their partial sums instead: (rows, roots·D).
        """
        blocks = [Block("head", layer, group) for group in groups]
        normed = self._norm(x, self._tensors[blocks[0]])  # (rows, D); the layer's norm, which every head carries
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
        if rows > 1:  # row i of the chunk sees the positions up to its own
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
        """What a half ends with: all partial sums along the tree, the bias, and the residual x (rows, D).

        `results` has the roots (rows, roots·D) of each device, `held` the heads or shards it has.
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
        """The logits of one shard of the LM head for the row (1, D): (V/M,), and fewer of the last one."""
        found = F.linear(row, self._tensors[Block("vocab", 0, shard)]["rows"])[0]
        return found[: self.shape.vocab - shard * vocab_rows(self.shape, self.partition)]

    def choices(self, shards: Sequence[int], row: torch.Tensor) -> torch.Tensor:
        """What each of these shards of the LM head would choose after the row (1, D): (1, 6·shards)."""
        rows = vocab_rows(self.shape, self.partition)
        return torch.cat([choice_of(self.shard_logits(shard, row), shard * rows) for shard in shards], dim=1)

    def _norm(self, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return F.layer_norm(
            x, (self.shape.width,), weights["norm_weight"], weights["norm_bias"], self.shape.norm_epsilon
        )
