"""How a worker prepares itself: its heap, and a warm baseline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from testbed.decoder.store import BlockStore
from testbed.decoder.weights import Tensors
from testbed.placement.blocks import ATTENTION, FFN, WHOLE, Partition, blocks_of, copies_of
from testbed.shape import ModelShape
from testbed.worker.libc import map_allocations_from

_LARGE_ALLOCATION_BYTES, _LARGE_ALLOCATION_LOOSE_BYTES = 32 * 1024, 128 * 1024


def return_large_allocations(tight: bool) -> None:
    """Map and unmap large activations instead of keeping them in the heap.

    A `tight` heap keeps no spare memory either. glibc maps only what does not fit into that memory, and aligned tensors
    leave holes there that the next ones do not fit in (11 MiB after loading 24 shards of an FFN, measured). Without
    `tight` it stays, for kernels on which each mapping is expensive.
    """
    map_allocations_from(_LARGE_ALLOCATION_BYTES if tight else _LARGE_ALLOCATION_LOOSE_BYTES, keep_room=not tight)


class _Zeros:
    """A source of weights that leaves them at zero."""

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Do nothing."""


def warm_up(shape: ModelShape, chunk: int, partition: Partition = WHOLE) -> None:
    """Touch what the first blocks would touch: kernels, the allocator, private pages.

    It runs one layer of the run's own width with a single head, on a prefill chunk and on a token, and drops it at
    once. All weights are pages of zeros that nobody has written, which take no memory.
    """
    one = replace(shape, name="warm-up", layers=1, vocab=256, positions=chunk + 1)
    store = BlockStore(one, _Zeros(), one.positions, partition)
    for block in (*blocks_of(one, partition), *copies_of(one, partition)):
        if (block.index == 0 and block.kind != "vocab") or block.kind == "sum":
            store.add(block)
    for rows, position in ((chunk, 0), (1, chunk)):
        x = np.zeros((rows, one.width), np.float32)  # (rows, D)
        out = store.heads(0, [0], x, position)
        if partition.proj_rows:
            store.sum_up(0, ATTENTION, [[0]], [out], x)
        else:
            store.proj(0, np.zeros((rows, one.heads * one.head_dim), np.float32), x)
        if partition.ffn_shards > 1:
            store.sum_up(0, FFN, [[0]], [store.ffn_shards(0, [0], x)], x)
        else:
            store.ffn(0, x)
