"""Adds partial sums along a fixed binary tree, so that no placement changes the order of additions.

A device adds its leaves up to the roots of the subtrees that it holds completely, and sends these roots side by side.
The receiver adds the roots. `testbed.placement.tree` says which subtrees those are. Every leaf and every sum is rounded
to the format of what travels, because in another placement it is the one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from functools import lru_cache

import numpy as np

from testbed.decoder.kernels import Floats, round_to
from testbed.placement.tree import Root, tree_roots

_ADD = -1  # the last two sums are added


def add_complete(leaves: Sequence[int], leaf: Callable[[int], Floats], wire_format: str = "float32") -> Floats:
    """The roots (rows, roots·D) of a device's leaves, in their order.

    `leaf` computes one of them, (rows, D), when it is its turn to be added, so that few are in memory at once.
    """

    def known(number: int) -> Floats:
        return round_to(wire_format, leaf(number))

    sums = [_added(order, known, wire_format) for order in _orders_of_roots(tuple(leaves))]
    return sums[0] if len(sums) == 1 else np.concatenate(sums, axis=1)


def add_up(
    held: Sequence[Sequence[int]], results: Sequence[Floats], width: int, wire_format: str = "float32"
) -> Floats:
    """The sum (rows, D) of all leaves, from the leaves that each device has and the roots (rows, roots·D) it sent."""
    places, order = _order_of_all(tuple(map(tuple, held)))

    def known(number: int) -> Floats:
        device, slot = places[number]
        return results[device][:, slot * width : (slot + 1) * width]

    return _added(order, known, wire_format)


def _added(order: Sequence[int], known: Callable[[int], Floats], wire_format: str) -> Floats:
    """The sum that is made in this order from those that are known by their first leaves."""
    sums: list[Floats] = []
    for step in order:
        if step == _ADD:
            right = sums.pop()
            sums[-1] = round_to(wire_format, sums[-1] + right)
        else:
            sums.append(known(step))
    return sums[0]


@lru_cache(maxsize=4096)
def _orders_of_roots(leaves: tuple[int, ...]) -> list[tuple[int, ...]]:
    """How to add up each of the roots of these leaves from the leaves."""
    every = {Root(leaf, 1) for leaf in leaves}
    return [tuple(_steps(root, root.start + root.size, every)) for root in tree_roots(leaves)]


@lru_cache(maxsize=4096)
def _order_of_all(held: tuple[tuple[int, ...], ...]) -> tuple[dict[int, tuple[int, int]], tuple[int, ...]]:
    """Device and slot of each root, by its first leaf, and how to add all roots up."""
    roots = [tree_roots(leaves) for leaves in held]
    places = {root.start: (device, slot) for device, own in enumerate(roots) for slot, root in enumerate(own)}
    count = sum(map(len, held))
    top = Root(0, 1 << (count - 1).bit_length())
    return places, tuple(_steps(top, count, {root for own in roots for root in own}))


def _steps(root: Root, count: int, known: Container[Root]) -> Iterator[int]:
    """How to add up what is below a root: the first leaf of a known sum, or `_ADD`. Leaves from `count` on are none."""
    if root in known:
        yield root.start
        return
    half = root.size // 2
    yield from _steps(Root(root.start, half), count, known)
    if root.start + half < count:
        yield from _steps(Root(root.start + half, half), count, known)
        yield _ADD
