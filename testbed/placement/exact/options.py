"""The ways to spread the units of one half-layer, its heads or its FFN's shards, over the devices.

Units of a half are alike: what a way costs depends on how many units each device has, how many come to it and how
many leave it. The shards of a partial sum are alike only up to the tree along which they are added, so few of them
are dealt out one by one. Shards in larger numbers are taken to be aligned (`tree.align`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from testbed.placement.tree import tree_roots

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
ASSIGNMENTS = 4096  # a partial half is dealt out unit by unit when there are at most this many ways


@dataclass(frozen=True)
class Options:
    """Ways to spread one half's units; a row each. All arrays (ways, devices)."""

    counts: Ints
    roots: Ints  # partial sums each device sends; 0 everywhere where results are no partial sums or are aligned
    came: Ints  # units a device gets from others
    left: Ints  # units a device gives to others
    dealt: Ints  # (ways, units): the device of each unit, or (ways, 0) where only counts are decided

    def __len__(self) -> int:
        return len(self.counts)

    def take(self, chosen: Ints | Flags) -> Options:
        """Some of the ways."""
        parts = (self.counts, self.roots, self.came, self.left, self.dealt)
        return Options(*(part[chosen] for part in parts))


@lru_cache(maxsize=32)
def count_vectors(units: int, devices: int) -> Ints:
    """Every way to write `units` as a sum over devices, in lexicographic order."""
    if devices == 1:
        return np.array([[units]], np.int64)
    parts = []
    for first in range(units + 1):
        rest = count_vectors(units - first, devices - 1)
        parts.append(np.hstack([np.full((len(rest), 1), first, np.int64), rest]))
    return np.vstack(parts)


def options_of(units: int, devices: int, partial: bool, old: Sequence[int] | None) -> Options:
    """Every way to spread `units` over `devices`, given each unit's present device (None: nothing is placed)."""
    if partial and units and devices**units <= ASSIGNMENTS:
        return _dealt_out(units, devices, old)
    counts = count_vectors(units, devices)
    nothing = np.zeros_like(counts)
    came = left = nothing
    if old is not None:
        present = np.bincount(np.array(old, np.int64), minlength=devices)
        came, left = np.maximum(counts - present, 0), np.maximum(present - counts, 0)
    return Options(counts, nothing, came, left, np.zeros((len(counts), 0), np.int64))


def _dealt_out(units: int, devices: int, old: Sequence[int] | None) -> Options:
    dealt = np.array(list(product(range(devices), repeat=units)), np.int64)
    counts = np.stack([(dealt == device).sum(1) for device in range(devices)], axis=1)
    roots = np.array(
        [[len(tree_roots(np.flatnonzero(row == device).tolist())) for device in range(devices)] for row in dealt],
        np.int64,
    )
    came, left = np.zeros_like(counts), np.zeros_like(counts)
    if old is not None:
        present = np.array(old, np.int64)
        moved = dealt != present
        for device in range(devices):
            came[:, device] = (moved & (dealt == device)).sum(1)
            left[:, device] = (moved & (present == device)).sum(1)
    options = Options(counts, roots, came, left, dealt)
    if old is not None:
        return options  # which unit goes where decides on the paths used: all are kept
    _, first = np.unique(np.hstack([counts, roots]), axis=0, return_index=True)
    return options.take(np.sort(first))


# --- over which paths units may move ---------------------------------------------------------------------------


def movable(options: Options, old: Sequence[int] | None, allowed: Flags) -> Flags:
    """Which ways can be carried out over allowed paths alone (`allowed[from, to]`), as few units moving as can.

    In a star the sets of receivers a device may send to are nested, because only the sum of the two delays counts;
    so units can be matched when no group of the most restricted senders has more than its receivers take.
    """
    if options.dealt.shape[1]:
        if old is None:
            return np.ones(len(options), bool)
        present = np.array(old, np.int64)
        fine = (options.dealt == present) | allowed[present[None, :], options.dealt]
        return np.asarray(fine.all(1))
    return matched(options.came, options.left, allowed)


def matched(came: Ints, left: Ints, allowed: Flags) -> Flags:
    """Whether what leaves can be matched with what comes, for rows of (ways, devices) and nested `allowed`."""
    fits = np.ones(len(came), bool)
    reach = allowed.sum(1)
    for device in range(len(reach)):
        restricted = reach <= reach[device]
        fits &= left[:, restricted].sum(1) <= came[:, allowed[device]].sum(1)
    return fits


def with_relays(options: Options, allowed: Flags) -> Options:
    """The ways that can be carried out over allowed paths, some by passing units on, as few as can be.

    Where a unit may not go from A to C, one may go from A to B and another of the same half from B to C. That
    moves more bytes and can still pay, when A to C is the longest path in use.
    """
    direct = matched(options.came, options.left, allowed)
    parts = [options.take(direct)]
    for row in np.flatnonzero(~direct):
        staying = options.counts[row] - options.came[row]
        moving = int(options.came[row].sum())
        extra = np.array(list(product(*(range(min(int(stay), moving) + 1) for stay in staying))), np.int64)
        came, left = options.came[row] + extra, options.left[row] + extra
        extra = extra[matched(came, left, allowed)]
        for more in _least(extra):
            one = options.take(np.array([row]))
            parts.append(Options(one.counts, one.roots, one.came + more, one.left + more, one.dealt))
    return Options(
        np.vstack([part.counts for part in parts]),
        np.vstack([part.roots for part in parts]),
        np.vstack([part.came for part in parts]),
        np.vstack([part.left for part in parts]),
        np.vstack([part.dealt for part in parts]),
    )


def _least(vectors: Ints) -> list[Ints]:
    """The vectors that no other one is below in every component."""
    found: list[Ints] = []
    for vector in sorted(vectors.tolist(), key=sum):
        if not any((kept <= np.array(vector)).all() for kept in found):
            found.append(np.array(vector, np.int64))
    return found


def assign(options: Options, row: int, old: Sequence[int] | None, allowed: Flags) -> list[int] | None:
    """The device of each unit in one way, moved over allowed paths; None where only counts are to be placed."""
    if options.dealt.shape[1]:
        return [int(device) for device in options.dealt[row]]
    if old is None:
        return None
    units = list(old)
    wanted = options.came[row].copy()
    reach = allowed.sum(1)
    for sender in sorted(range(len(reach)), key=lambda device: int(reach[device])):
        mine = [unit for unit, device in enumerate(old) if device == sender]
        for unit in mine[len(mine) - int(options.left[row, sender]) :] if options.left[row, sender] else []:
            receiver = next(device for device in range(len(reach)) if allowed[sender, device] and wanted[device])
            wanted[receiver] -= 1
            units[unit] = receiver
    return units
