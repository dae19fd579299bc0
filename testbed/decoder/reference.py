"""The single-process reference: every placement must give the same bits as this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from testbed.decoder.choice import choose_token, logits_digest
from testbed.decoder.kernels import Floats
from testbed.decoder.store import BlockStore
from testbed.decoder.weights import WeightSource
from testbed.placement.blocks import ATTENTION, FFN, WHOLE, Partition, blocks_of, copies_of, vocab_rows
from testbed.shape import ModelShape
from testbed.words.sampling import Sampling


@dataclass(frozen=True)
class ReferenceToken:
    """One generated token and the digest of the logits it was chosen from."""

    token_id: int
    logits_digest: str


def chunk_bounds(prompt_tokens: int, chunk: int, begin: int = 0) -> list[tuple[int, int]]:
    """The (start, end) of each chunk of the rows from `begin` on."""
    return list(pairwise([*range(begin, prompt_tokens, chunk), prompt_tokens]))


class Reference:
    """All blocks of a partition in one process."""

    def __init__(self, shape: ModelShape, weights: WeightSource, positions: int, partition: Partition = WHOLE) -> None:
        self.shape = shape
        self.partition = partition
        self.store = BlockStore(shape, weights, positions, partition)
        self.store.add_pinned()
        for block in (*blocks_of(shape, partition), *copies_of(shape, partition)):
            self.store.add(block)

    def forward(self, ids: Sequence[int], position: int) -> Floats:
        """The logits (V,) after these ids, which start at `position`; updates the KV caches."""
        x = self.store.embed(ids, position)  # (rows, D)
        for layer in range(self.shape.layers):
            x = self._ffn(layer, self._attention(layer, x, position))
        if self.partition.vocab_shards == 1:
            return self.store.logits(x)
        row = self.store.final_row(x)
        return np.concatenate([self.store.shard_logits(shard, row) for shard in range(self.partition.vocab_shards)])

    def _attention(self, layer: int, x: Floats, position: int) -> Floats:
        groups = range(self.shape.kv_heads)
        out = self.store.heads(layer, groups, x, position)
        if self.partition.proj_rows:
            return self.store.sum_up(layer, ATTENTION, [groups], [out], x)
        return self.store.proj(layer, out, x)

    def _ffn(self, layer: int, y: Floats) -> Floats:
        shards = range(self.partition.ffn_shards)
        if len(shards) == 1:
            return self.store.ffn(layer, y)
        return self.store.sum_up(layer, FFN, [shards], [self.store.ffn_shards(layer, shards, y)], y)

    def generate(
        self, prompt: Sequence[int], tokens: int, chunk: int, sampling: Sampling | None = None
    ) -> Iterator[ReferenceToken]:
        """Yield `tokens` tokens after the prompt, which is prefilled in chunks of `chunk` tokens."""
        for start, end in chunk_bounds(len(prompt), chunk):
            logits = self.forward(prompt[start:end], start)
        shard_rows = vocab_rows(self.shape, self.partition) if self.partition.vocab_shards > 1 else None
        for step in range(tokens):
            token = choose_token(logits, sampling, len(prompt) + step)
            yield ReferenceToken(token, logits_digest(logits, shard_rows))
            if step + 1 < tokens:
                logits = self.forward([token], len(prompt) + step)
