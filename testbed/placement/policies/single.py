"""`single`: the whole model on the one device where it is fastest."""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import UNPLACED, Draft
from testbed.placement.local.improve import WORTHWHILE_S
from testbed.placement.observation import Observation
from testbed.units import format_bytes


class Single:
    """Every block on one device, the best of those that can hold them all; Infeasible where none can.

    Embedding and LM head stay at the source, as in every placement. At later decisions the model moves as a whole if
    the interval is predicted to cost less with the migration, or if its device can no longer hold it.
    """

    name = "single"

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Choose the cheapest device for the coming interval."""
        return decide_on_draft(observation, placement, self._choose, self.name)

    def _choose(self, draft: Draft) -> None:
        layers = WholeLayers(draft)
        here = set(layers.old) if draft.old else set()
        stays = len(here) == 1 and UNPLACED not in here and not draft.overloaded()
        best = (draft.cost - WORTHWHILE_S, next(iter(here))) if stays else None
        for device in draft.devices:
            missing = sum(where != device for where in layers.old)
            if device in here or layers.room[device] < layers.count or layers.incoming[device] < missing:
                continue
            before = list(draft.where)
            layers.put([device] * layers.count)
            found = (draft.cost, device)
            if best is None or found[0] < best[0]:
                best = found
            if draft.old:
                draft.become(before)
        if best is None:
            whole = format_bytes(layers.count * layers.grown_bytes)
            raise layers.refuse(self.name, f"no device has room for the whole model, which needs {whole}")
        layers.put([best[1]] * layers.count)
