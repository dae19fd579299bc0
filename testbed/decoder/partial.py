"""Adding partial sums along the fixed tree, so that no placement changes the order of additions.

A device adds what completes a subtree and sends the roots side by side; where they meet, they are added on. Which
subtrees those are is `testbed.placement.tree`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from testbed.placement.tree import Root, tree_roots

Partial = Mapping[Root, torch.Tensor]  # each (rows, D)


def add_complete(leaves: Sequence[int], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The roots of a device's leaves, each leaf a (rows, D): (rows, roots·D), in order of leaves."""
    found = {Root(leaf, 1): part for leaf, part in zip(leaves, parts, strict=True)}
    return torch.cat([_added(found, root, root.start + root.size) for root in tree_roots(leaves)], dim=1)


def add_up(held: Sequence[Sequence[int]], results: Sequence[torch.Tensor], width: int) -> torch.Tensor:
    """The sum of all leaves, (rows, D), from what each device sent, (rows, roots·D), and the leaves it has."""
    found: dict[Root, torch.Tensor] = {}
    for leaves, result in zip(held, results, strict=True):
        for slot, root in enumerate(tree_roots(leaves)):
            found[root] = result[:, slot * width : (slot + 1) * width]
    count = sum(map(len, held))
    size = 1 << (count - 1).bit_length()
    return _added(found, Root(0, size), count)


def _added(found: Partial, root: Root, count: int) -> torch.Tensor:
    """The sum below one root; leaves from `count` on are not there."""
    if root in found:
        return found[root]
    half = root.size // 2
    left = _added(found, Root(root.start, half), count)
    if root.start + half >= count:
        return left
    return left + _added(found, Root(root.start + half, half), count)
