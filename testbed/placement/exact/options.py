"""The options for one half-layer: every distribution of its units (its heads, or its FFN's shards) over the devices.

Units of a half are alike, so an option costs what follows from three counts per device: units held, units arriving and
units leaving. The shards of a partial sum are alike only up to the tree along which they are added. Few shards are
therefore assigned one by one; more of them are taken to be aligned (`tree.align`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from testbed.placement.array_types import Flags, Ints
from testbed.placement.exact.limits import UNIT_ASSIGNMENTS
from testbed.placement.tree import tree_roots


@dataclass(frozen=True)
class Options:
    """Distributions of one half's units, one per row. All arrays but the last are (options, devices)."""

    counts: Ints
    roots: Ints  # partial sums each device sends; 0 everywhere where results are no partial sums or are aligned
    arriving: Ints  # units a device gets from others
    leaving: Ints  # units a device gives to others
    assigned: Ints  # (options, units): the device of each unit; (options, 0) where only counts are decided

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def by_unit(self) -> bool:
        """Whether the device of each unit is decided, and not only how many units each device has."""
        return self.assigned.shape[1] > 0

    def take(self, chosen: Ints | Flags) -> Options:
        """Some of the options."""
        parts = (self.counts, self.roots, self.arriving, self.leaving, self.assigned)
        return Options(*(part[chosen] for part in parts))


@lru_cache(maxsize=32)
def count_vectors(units: int, devices: int) -> Ints:
    """Every vector of counts per device that adds up to `units`, in lexicographic order."""
    if devices == 1:
        return np.array([[units]], np.int64)
    parts = []
    for first in range(units + 1):
        rest = count_vectors(units - first, devices - 1)
        parts.append(np.hstack([np.full((len(rest), 1), first, np.int64), rest]))
    return np.vstack(parts)


def options_of(units: int, devices: int, partial: bool, old: Sequence[int] | None) -> Options:
    """Every distribution of `units` over `devices`, given each unit's present device (None: nothing is placed)."""
    if partial and units and devices**units <= UNIT_ASSIGNMENTS:
        return _assigned_by_unit(units, devices, old)
    counts = count_vectors(units, devices)
    nothing = np.zeros_like(counts)
    arriving = leaving = nothing
    if old is not None:
        present = np.bincount(np.array(old, np.int64), minlength=devices)
        arriving, leaving = np.maximum(counts - present, 0), np.maximum(present - counts, 0)
    return Options(counts, nothing, arriving, leaving, np.zeros((len(counts), 0), np.int64))


def _assigned_by_unit(units: int, devices: int, old: Sequence[int] | None) -> Options:
    assigned = np.array(list(product(range(devices), repeat=units)), np.int64)
    counts = np.stack([(assigned == device).sum(1) for device in range(devices)], axis=1)
    roots = np.array(
        [[len(tree_roots(np.flatnonzero(row == device).tolist())) for device in range(devices)] for row in assigned],
        np.int64,
    )
    arriving, leaving = np.zeros_like(counts), np.zeros_like(counts)
    if old is not None:
        present = np.array(old, np.int64)
        moved = assigned != present
        for device in range(devices):
            arriving[:, device] = (moved & (assigned == device)).sum(1)
            leaving[:, device] = (moved & (present == device)).sum(1)
    options = Options(counts, roots, arriving, leaving, assigned)
    if old is not None:
        return options  # all are kept, because the paths that are used depend on which unit goes where
    _, first = np.unique(np.hstack([counts, roots]), axis=0, return_index=True)
    return options.take(np.sort(first))


# --- over which paths units may move ---------------------------------------------------------------------------


def movable(options: Options, old: Sequence[int] | None, allowed: Flags) -> Flags:
    """Which options can be reached over allowed paths alone (`allowed[from, to]`), moving as few units as possible.

    In a star only the sum of two delays counts, so the sets of receivers that devices may send to are nested. Units can
    therefore be matched if no group of the most restricted senders has more units than its receivers take.
    """
    if options.by_unit:
        if old is None:
            return np.ones(len(options), bool)
        present = np.array(old, np.int64)
        fine = (options.assigned == present) | allowed[present[None, :], options.assigned]
        return np.asarray(fine.all(1))
    return matched(options.arriving, options.leaving, allowed)


def matched(arriving: Ints, leaving: Ints, allowed: Flags) -> Flags:
    """Whether what leaves can be matched with what arrives, for rows of (options, devices) and nested `allowed`."""
    fits = np.ones(len(arriving), bool)
    reach = allowed.sum(1)
    for device in range(len(reach)):
        restricted = reach <= reach[device]
        fits &= leaving[:, restricted].sum(1) <= arriving[:, allowed[device]].sum(1)
    return fits


def with_relays(options: Options, allowed: Flags) -> Options:
    """The options that can be reached over allowed paths, where needed by passing on as few units as possible.

    Where a unit may not go from A to C, one may go from A to B and another of the same half from B to C. That
    moves more bytes and can still pay, when A to C is the longest path in use.
    """
    direct = matched(options.arriving, options.leaving, allowed)
    parts = [options.take(direct)]
    for row in np.flatnonzero(~direct):
        staying = options.counts[row] - options.arriving[row]
        moving = int(options.arriving[row].sum())
        extra = np.array(list(product(*(range(min(int(stay), moving) + 1) for stay in staying))), np.int64)
        arriving, leaving = options.arriving[row] + extra, options.leaving[row] + extra
        extra = extra[matched(arriving, leaving, allowed)]
        for more in _minimal(extra):
            one = options.take(np.array([row]))
            parts.append(Options(one.counts, one.roots, one.arriving + more, one.leaving + more, one.assigned))
    return Options(
        np.vstack([part.counts for part in parts]),
        np.vstack([part.roots for part in parts]),
        np.vstack([part.arriving for part in parts]),
        np.vstack([part.leaving for part in parts]),
        np.vstack([part.assigned for part in parts]),
    )


def _minimal(vectors: Ints) -> list[Ints]:
    """The vectors that no other one is at most equal to in every component."""
    found: list[Ints] = []
    for vector in sorted(vectors.tolist(), key=sum):
        if not any((kept <= np.array(vector)).all() for kept in found):
            found.append(np.array(vector, np.int64))
    return found


def unit_devices(options: Options, row: int, old: Sequence[int] | None, allowed: Flags) -> list[int] | None:
    """The device of each unit in one option, moved over allowed paths; None where nothing is placed yet."""
    if options.by_unit:
        return [int(device) for device in options.assigned[row]]
    if old is None:
        return None
    units = list(old)
    wanted = options.arriving[row].copy()
    reach = allowed.sum(1)
    for sender in sorted(range(len(reach)), key=lambda device: int(reach[device])):
        mine = [unit for unit, device in enumerate(old) if device == sender]
        for unit in mine[len(mine) - int(options.leaving[row, sender]) :] if options.leaving[row, sender] else []:
            receiver = next(device for device in range(len(reach)) if allowed[sender, device] and wanted[device])
            wanted[receiver] -= 1
            units[unit] = receiver
    return units
