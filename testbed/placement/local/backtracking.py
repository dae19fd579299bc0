"""Bounded backtracking: a block that fits nowhere gets a device off which a few of the latest blocks go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from testbed.placement.local.draft import Draft

BACKTRACK_LIMIT = 8  # earlier placements moved for one block; the paper bounds backtracking and gives no number


def backtrack(
    draft: Draft,
    slot: int,
    device: int,
    latest: Sequence[int],
    lowest: Callable[[int], tuple[float, int] | None],
    put: Callable[[int, int], None],
) -> bool:
    """Put a block on `device`, off which the latest blocks in `latest` go to feasible devices; False if it cannot be.

    `lowest` gives the lowest score of a block on another device and that device, and `put` places a block.
    """
    moved = 0
    for earlier in list(reversed(latest)):
        if moved == BACKTRACK_LIMIT or draft.room_for(slot, device):
            break
        if draft.where[earlier] != device or earlier == slot:
            continue
        scored = lowest(earlier)
        if scored is not None and scored[0] <= 1:
            put(earlier, scored[1])
            moved += 1
    if not draft.room_for(slot, device):
        return False
    put(slot, device)
    return True
