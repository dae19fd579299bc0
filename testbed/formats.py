"""The formats in which weights, KV caches and messages hold numbers.

The quantised formats are those of GGUF: a block is 32 numbers of one row, with a float16 scale, and in q4_1 a float16
minimum. This module knows bytes and no arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A way to hold numbers: each `block` neighbours of a row take `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int

    @property
    def bits_per_element(self) -> float:
        """The bits that a number takes, its share of scales included."""
        return 8 * self.block_bytes / self.block


FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("float32", 1, 4),
        Format("bfloat16", 1, 2),
        Format("float16", 1, 2),
        Format("q8_0", 32, 34),
        Format("q4_0", 32, 18),
        Format("q4_1", 32, 20),
    )
}

PLAIN = ("float32", "bfloat16", "float16")
"""The formats without blocks, for KV caches and messages."""


def packed_bytes(format: str, rows: int, columns: int) -> int:
    """The bytes of a matrix (rows, columns); raises ValueError if a row is no whole number of blocks."""
    found = FORMATS[format]
    if columns % found.block:
        raise ValueError(f"{format} has blocks of {found.block}, and {columns} columns are no multiple of that")
    return rows * (columns // found.block) * found.block_bytes
