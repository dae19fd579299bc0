"""`round-robin`: blocks dealt to the devices in turn."""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import Draft
from testbed.placement.local.forward_checking import ForwardChecking
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation


class RoundRobin:
    """Deals the blocks in token order, each to the next device in turn that is not full.

    A device counts as full for a block if the blocks still to be dealt would no longer fit after it. Later, a device
    that can no longer hold its blocks deals the last ones, in token order, to the next devices where they fit. If that
    comes to a dead end, the draft is repaired instead.
    """

    name = "round-robin"
    needs_links = False

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Deal all blocks, or deal again those that no longer fit."""
        change = self._deal if placement is None else self._deal_again
        return decide_on_draft(observation, placement, change, self.name)

    def _deal(self, draft: Draft) -> None:
        checking = ForwardChecking(draft, self.name)
        turn = 0
        for slot in range(len(draft.blocks)):
            device = next(device for device in _from(draft, turn) if checking.allows(slot, device))
            checking.assign(slot, device)
            turn = device + 1
        draft.refresh()

    def _deal_again(self, draft: Draft) -> None:
        turn = 0
        for device in draft.overloaded():
            for slot in reversed([slot for slot, where in enumerate(draft.where) if where == device]):
                if not draft.excess(device):
                    break
                target = next((to for to in _from(draft, turn) if to != device and draft.room_for(slot, to)), None)
                if target is not None:
                    draft.apply([(slot, target)])
                    turn = target + 1
        if draft.overloaded():
            draft.become(draft.old)
            repair(draft, self.name)


def _from(draft: Draft, turn: int) -> list[int]:
    """All devices once, beginning with the one whose turn it is."""
    devices = len(draft.devices)
    return [(turn + step) % devices for step in draft.devices]
