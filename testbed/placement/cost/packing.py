"""Bin packing: blocks into the rooms of devices. Blocks of a kind are alike, so a packing is a table of counts.

First-fit is tried first. Where it fails the answer is exact: from a dynamic programme for few large blocks, otherwise
from a small integer programme. Sizes and rooms are in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from testbed.placement.blocks import PAGE_BYTES
from testbed.placement.highs import quiet_highs

Kinds = Sequence[tuple[int, int]]  # (bytes of one, how many), largest first

_MOST_STATES = 10_000  # of the dynamic programme, one per combination of counts; with more the integer one solves it


def _how_many(room: int, size: int, count: int) -> int:
    """How many of `count` blocks of `size` bytes fit."""
    return min(count, room // size) if size else count


def first_fit(rooms: Sequence[int], kinds: Kinds) -> list[list[int]] | None:
    """Counts per device and kind by first-fit decreasing, or None where that finds no packing.

    If it finds one, it also does so once any single item has gone to a device where this packing has one of its kind.
    """
    free = list(rooms)
    packed = [[0] * len(kinds) for _ in rooms]
    for kind, (size, count) in enumerate(kinds):
        for device, room in enumerate(free):
            if count and room >= size:
                taken = _how_many(room, size, count)
                packed[device][kind] = taken
                free[device] -= taken * size
                count -= taken
        if count:
            return None
    return packed


def pack(rooms: Sequence[int], kinds: Kinds) -> list[list[int]] | None:
    """Counts per device and kind that fit `rooms`, or None when there is no such packing."""
    quick = first_fit(rooms, kinds)
    too_much = sum(max(room, 0) for room in rooms) < sum(size * count for size, count in kinds)
    if quick is not None or too_much or any(count and size > max(rooms) for size, count in kinds):
        return quick
    if math.prod(count + 1 for _, count in kinds[:-1]) <= _MOST_STATES and kinds[-1][0] > 0:
        return _pack_by_counts(rooms, kinds)
    return _pack_by_integers(rooms, kinds)


def _pack_by_counts(rooms: Sequence[int], kinds: Kinds) -> list[list[int]] | None:
    """A dynamic programme over devices.

    For each combination of large items placed so far, it keeps the most of the smallest kind that fit beside them.
    """
    large, (small_size, small_count) = kinds[:-1], kinds[-1]
    best: dict[tuple[int, ...], int] = {tuple(0 for _ in large): 0}
    choices: list[dict[tuple[int, ...], tuple[int, ...]]] = []
    for room in rooms:
        following: dict[tuple[int, ...], int] = {}
        chosen: dict[tuple[int, ...], tuple[int, ...]] = {}
        options = list(_loads(max(room, 0), large))
        for state, small in best.items():
            for load, left in options:
                total = tuple(have + more for have, more in zip(state, load, strict=True))
                if any(have > count for have, (_, count) in zip(total, large, strict=True)):
                    continue
                reached = small + left // small_size
                if reached > following.get(total, -1):
                    following[total], chosen[total] = reached, load
        best = following
        choices.append(chosen)
    goal = tuple(count for _, count in large)
    if best.get(goal, -1) < small_count:
        return None
    packed: list[list[int]] = []
    for room, chosen in zip(reversed(rooms), reversed(choices), strict=True):
        load = chosen[goal]
        goal = tuple(have - more for have, more in zip(goal, load, strict=True))
        used = sum(n * size for n, (size, _) in zip(load, large, strict=True))
        small = min(small_count, (max(room, 0) - used) // small_size)
        small_count -= small
        packed.insert(0, [*load, small])
    return packed


def _loads(room: int, large: Kinds) -> list[tuple[tuple[int, ...], int]]:
    """Every (counts of the large kinds, bytes left) that fits one room."""
    found: list[tuple[tuple[int, ...], int]] = [((), room)]
    for size, count in large:
        found = [
            ((*load, more), left - more * size) for load, left in found for more in range(min(count, left // size) + 1)
        ]
    return found


def _pack_by_integers(rooms: Sequence[int], kinds: Kinds) -> list[list[int]] | None:
    """An integer programme: one variable per device and kind, one row per device and per kind.

    HiGHS solves it in whole pages, which keeps every number exactly representable. The answer is checked in bytes.
    """
    import highspy

    model = quiet_highs()
    places = [
        [model.addIntegral(lb=0, ub=_how_many(max(room, 0), size, count)) for size, count in kinds] for room in rooms
    ]
    for number, (_, count) in enumerate(kinds):
        model.addConstr(sum(place[number] for place in places) == count)
    for room, place in zip(rooms, places, strict=True):
        pages = [-(-size // PAGE_BYTES) for size, _ in kinds]
        model.addConstr(sum(n * size for n, size in zip(place, pages, strict=True)) <= max(room, 0) // PAGE_BYTES)
    model.run()
    if model.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    found = [round(value) for value in model.getSolution().col_value]
    packed = [found[start : start + len(kinds)] for start in range(0, len(found), len(kinds))]
    for room, counts in zip(rooms, packed, strict=True):
        if sum(n * size for n, (size, _) in zip(counts, kinds, strict=True)) > max(room, 0):
            return None
    return packed
