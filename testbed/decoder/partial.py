"""Adds partial sums along a fixed binary tree, so that no placement changes the order of additions.

A device adds its leaves up to the roots of the subtrees that it holds completely, and sends these roots side by side.
The receiver adds the roots. `testbed.placement.tree` says which subtrees those are. Every leaf and every sum is rounded
to the format of what travels, because in another placement it is the one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from testbed.decoder.kernels import Floats, round_to
from testbed.placement.tree import Root, tree_roots

Known = Callable[[Root], Floats | None]  # the sum (rows, D) below a root; None: its halves must be added


def add_complete(leaves: Sequence[int], leaf: Callable[[int], Floats], wire_format: str = "float32") -> Floats:
    """The roots (rows, roots·D) of a device's leaves, in their order.

    `leaf` computes one of them, (rows, D), when it is its turn to be added, so that few are in memory at once.
    """

    def known(root: Root) -> Floats | None:
        return round_to(wire_format, leaf(root.start)) if root.size == 1 else None

    sums = [_added(known, root, root.start + root.size, wire_format) for root in tree_roots(leaves)]
    return sums[0] if len(sums) == 1 else np.concatenate(sums, axis=1)


def add_up(
    held: Sequence[Sequence[int]], results: Sequence[Floats], width: int, wire_format: str = "float32"
) -> Floats:
    """The sum (rows, D) of all leaves, from the leaves that each device has and the roots (rows, roots·D) it sent."""
    found: dict[Root, Floats] = {}
    for leaves, result in zip(held, results, strict=True):
        for slot, root in enumerate(tree_roots(leaves)):
            found[root] = result[:, slot * width : (slot + 1) * width]
    count = sum(map(len, held))
    size = 1 << (count - 1).bit_length()
    return _added(found.get, Root(0, size), count, wire_format)


def _added(known: Known, root: Root, count: int, wire_format: str) -> Floats:
    """The sum below one root; leaves from number `count` on do not exist."""
    there = known(root)
    if there is not None:
        return there
    half = root.size // 2
    left = _added(known, Root(root.start, half), count, wire_format)
    if root.start + half >= count:
        return left
    return round_to(wire_format, left + _added(known, Root(root.start + half, half), count, wire_format))
