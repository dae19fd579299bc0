"""Private anonymous memory for weights and KV caches, which returns to the kernel as soon as a block is dropped.

A device's ledger is its anonymous memory, so blocks must not use an allocator that keeps freed memory. Each block has
its own maps, and dropping the last tensor of a map unmaps it.
"""

from __future__ import annotations

import errno
import mmap

import numpy as np
import torch

from testbed.placement.blocks import PAGE_BYTES, TENSOR_ALIGNMENT

Dims = tuple[int, ...]
_FLOAT_BYTES = 4


def anonymous_map(size: int) -> mmap.mmap:
    """A private anonymous map of at least `size` bytes in small pages; a page becomes resident when it is touched."""
    rounded = max(PAGE_BYTES, -(-size // PAGE_BYTES) * PAGE_BYTES)
    pages = mmap.mmap(-1, rounded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel without huge pages, like User-Mode Linux, answers EINVAL
            raise
    return pages


def map_tensors(layout: tuple[tuple[str, Dims], ...]) -> dict[str, torch.Tensor]:
    """Zeroed float32 tensors with these names and shapes in one map; each starts on a cache line."""
    offsets: list[int] = []
    size = 0
    for _, dims in layout:
        offsets.append(size)
        size += -(-int(np.prod(dims)) * _FLOAT_BYTES // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
    pages = anonymous_map(size)
    return {
        name: torch.frombuffer(pages, dtype=torch.float32, count=int(np.prod(dims)), offset=offset).view(dims)
        for (name, dims), offset in zip(layout, offsets, strict=True)
    }


def aligned_copy(payload: bytes | memoryview, dims: Dims) -> torch.Tensor:
    """A float32 tensor of shape `dims` with the bytes of a message.

    A message can arrive at any address, and matrix kernels may round differently on unaligned input. So the bytes are
    copied into memory that torch aligned.
    """
    tensor = torch.empty(dims)
    tensor.view(-1).numpy()[:] = np.frombuffer(payload, dtype=np.float32)
    return tensor


class KvCache:
    """Keys and values of one KV group: two arrays of (positions, d) that become resident as the sequence grows."""

    def __init__(self, positions: int, head_dim: int) -> None:
        self.keys = map_tensors((("keys", (positions, head_dim)),))["keys"]  # (positions, d)
        self.values = map_tensors((("values", (positions, head_dim)),))["values"]  # (positions, d)

    def payload(self, length: int) -> tuple[memoryview, memoryview]:
        """The bytes of the first `length` rows: keys, then values."""
        return (
            memoryview(self.keys[:length].numpy().reshape(-1).view(np.uint8)),
            memoryview(self.values[:length].numpy().reshape(-1).view(np.uint8)),
        )
