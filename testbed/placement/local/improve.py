"""Improving a draft by local search: first improvement over its neighbourhood, until no group of shifts pays.

The search exists twice and decides alike. Drafts with a hub are improved in machine code (`sweep`). Others are improved
in plain Python, and so are small ones where the machine code would first have to be made.
"""

from __future__ import annotations

from testbed.placement.cost import machine_code
from testbed.placement.local.draft import Draft
from testbed.placement.local.neighbourhood import neighbours
from testbed.placement.observation import Observation

EFFORT = 40_000  # groups tried in one decision, at most
WORTHWHILE_S = 1e-7  # a smaller predicted gain may be rounding, and a change for its sake could be undone by the next
SMALL = 100  # layers times devices of a small draft: plain Python improves it in about a tenth of a second


def improve(draft: Draft) -> None:
    """Sweep over the neighbourhood and take every group that lowers the predicted interval cost, until none does.

    It is deterministic. The effort is bounded by a count and not by a clock, so that decisions can be repeated.
    """
    if _compiled(draft.observation):
        from testbed.placement.local.sweep import improved

        draft.become(improved(draft, EFFORT, WORTHWHILE_S))
    else:
        improve_plainly(draft)


def warm_up(observation: Observation) -> None:
    """Load the machine code, or compile it, if drafts of this size need it, so that no decision waits for it."""
    if _compiled(observation):
        from testbed.placement.local.sweep import warm_up as load

        load()


def _compiled(observation: Observation) -> bool:
    if not observation.partition.hub or observation.cost == "paper":  # which the compiled half-layers do not know
        return False
    return observation.shape.layers * len(observation.devices) > SMALL or machine_code.is_there()


def improve_plainly(draft: Draft) -> None:
    """The search of `improve` in plain Python."""
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
