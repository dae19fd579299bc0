"""Private anonymous memory for weights and KV caches, which returns to the kernel as soon as a block is dropped.

A device's ledger is its anonymous memory, so blocks must not use an allocator that keeps freed memory. Each block has
its own maps, and dropping the last tensor of a map unmaps it.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from testbed.decoder.kernels import Packed
from testbed.formats import packed_bytes
from testbed.placement.blocks import PAGE_BYTES, TENSOR_ALIGNMENT


class Layout(NamedTuple):
    """The name, format and size of one tensor of a map."""

    name: str
    format: str
    rows: int
    columns: int


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


def map_tensors(layouts: Sequence[Layout]) -> dict[str, Packed]:
    """Zeroed tensors with these names, formats and sizes in one map; each starts on a cache line."""
    offsets: list[int] = []
    end = 0
    for layout in layouts:
        offsets.append(end)
        end += -(-_bytes(layout) // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
    pages = np.frombuffer(anonymous_map(end), np.uint8)
    return {
        layout.name: Packed(layout.format, layout.rows, layout.columns, pages[offset : offset + _bytes(layout)])
        for layout, offset in zip(layouts, offsets, strict=True)
    }


def _bytes(layout: Layout) -> int:
    return packed_bytes(layout.format, layout.rows, layout.columns)


class KvCache:
    """Keys and values of one KV group: two maps of (positions, d) that become resident as the sequence grows."""

    def __init__(self, positions: int, head_dim: int, format: str = "float32") -> None:
        self.format = format
        self.keys = map_tensors([Layout("keys", format, positions, head_dim)])["keys"].data  # (positions·d·b_kv,)
        self.values = map_tensors([Layout("values", format, positions, head_dim)])["values"].data
        self.row_bytes = packed_bytes(format, 1, head_dim)

    def payload(self, length: int) -> tuple[memoryview, memoryview]:
        """The bytes of the first `length` rows: keys, then values."""
        end = length * self.row_bytes
        return memoryview(self.keys[:end]), memoryview(self.values[:end])

    def rows(self, start: int, count: int) -> tuple[memoryview, memoryview]:
        """The bytes of some rows: keys, then values."""
        piece = slice(start * self.row_bytes, (start + count) * self.row_bytes)
        return memoryview(self.keys[piece]), memoryview(self.values[piece])
