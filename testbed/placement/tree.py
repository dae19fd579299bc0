"""The fixed binary tree along which partial sums are added, and which of its subtrees a set of leaves completes.

Float addition is not associative. So the shards of a sum are always added along the same tree over their indices,
wherever they are. If one device has all leaves of a subtree, it adds them and sends one partial sum, the subtree's
root. The subtrees are the ranges of 2^m leaves that begin at a multiple of 2^m; where the number of leaves is no power
of two, the last subtrees are incomplete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple


class Root(NamedTuple):
    """A complete subtree: the leaves `start` to `start + size - 1`, `size` a power of two that divides `start`."""

    start: int
    size: int


@lru_cache(maxsize=65536)
def roots_of_mask(mask: int) -> tuple[Root, ...]:
    """The largest complete subtrees among the leaves whose bits are set, in order of leaves."""
    found: list[Root] = []
    start = 0
    while mask >> start:
        if not mask >> start & 1:
            start += 1
            continue
        size = 1
        while start % (2 * size) == 0 and mask >> start & (1 << 2 * size) - 1 == (1 << 2 * size) - 1:
            size *= 2
        found.append(Root(start, size))
        start += size
    return tuple(found)


def mask_of(indices: Iterable[int]) -> int:
    """The indices as the bits of a number."""
    mask = 0
    for index in indices:
        mask |= 1 << index
    return mask


def tree_roots(indices: Iterable[int]) -> tuple[Root, ...]:
    """The roots of the complete subtrees that a device with these leaves can add on its own, in order of leaves."""
    return roots_of_mask(mask_of(indices))


def aligned_roots(count: int) -> int:
    """How many roots a device with `count` aligned leaves sends: the number of ones in its binary form."""
    return count.bit_count()


def align(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Deal leaves 0, 1, … to devices by their counts so that each device has the fewest roots, `aligned_roots`.

    Each count is split into powers of two. The pieces of all devices follow one another, largest first and ties by
    device, so that each begins at a multiple of its size.
    """
    pieces = [
        (1 << bit, device)
        for device, count in enumerate(counts)
        for bit in range(count.bit_length())
        if count >> bit & 1
    ]
    held: list[list[int]] = [[] for _ in counts]
    start = 0
    for size, device in sorted(pieces, key=lambda piece: (-piece[0], piece[1])):
        held[device] += range(start, start + size)
        start += size
    return [tuple(sorted(indices)) for indices in held]
