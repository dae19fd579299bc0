"""Improving a draft by local search: first improvement over its neighbourhood, until no group of shifts pays."""

from __future__ import annotations

from testbed.placement.local.draft import Draft
from testbed.placement.local.neighbourhood import neighbours

EFFORT = 40_000  # groups tried in one decision, at most; with 25 devices 20,000 were measured to take one second
WORTHWHILE_S = 1e-7  # a smaller predicted gain may be rounding, and a change for its sake could be undone by the next


def improve(draft: Draft) -> None:
    """Sweep over the neighbourhood and take every group that lowers the predicted interval cost, until none does.

    It is deterministic. The effort is bounded by a count and not by a clock, so that decisions can be repeated.
    """
    cost, effort = draft.cost, EFFORT
    changed = True
    while changed and effort > 0:
        changed = False
        for shifts in neighbours(draft):
            effort -= 1
            if effort < 0:
                break
            undo = draft.try_shifts(shifts, below=cost)
            if undo is None:
                continue
            now = draft.cost
            if now < cost - WORTHWHILE_S:
                cost, changed = now, True
            else:
                draft.take_back(undo)
