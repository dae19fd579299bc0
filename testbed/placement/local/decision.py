"""Deciding with a draft: a policy changes it, and what it has become is the decision."""

from __future__ import annotations

from collections.abc import Callable

from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.cost.model import cost_model
from testbed.placement.local.draft import Draft
from testbed.placement.observation import Observation
from testbed.placement.useful import decide_on_useful


def decide_on_draft(
    observation: Observation, old: Placement | None, change: Callable[[Draft], None], who: str, for_work: bool = False
) -> Placement:
    """Let `change` work on a draft of the present placement; returns the result, or `old` itself if nothing moves.

    Only useful devices are in the draft, as in `decide_on_useful`. Raises Infeasible, naming `who`, if the result does
    not fit.
    """
    return decide_on_useful(observation, old, lambda seen: change_draft(seen, old, change), who, for_work)


def change_draft(observation: Observation, old: Placement | None, change: Callable[[Draft], None]) -> Placement:
    """The same on all devices of the observation, and without a check that the result fits.

    The first attempt keeps memory free for caches that grow to the run's end. If that is infeasible, the second one
    looks at the interval's end only.
    """
    model = cost_model(observation)
    try:
        draft = Draft(model, old, old)
        change(draft)
    except Infeasible:
        draft = Draft(model, old, old, reserve=False)
        change(draft)
    return draft.placement(old)
