"""`round-robin`: blocks dealt to the devices in turn."""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.local.draft import Draft, decide_on_draft
from testbed.placement.local.forward_checking import ForwardChecking
from testbed.placement.local.improve import repair
from testbed.placement.observation import Observation


class RoundRobin:
    """Deals the blocks in token order, each to the next device in turn that is not full.

    A device counts as full for a block when the blocks still to be dealt would no longer fit after it. Later,
    devices that can no longer hold their blocks deal the last ones, in token order, to the next devices with
    room; where that ends in a dead end, the cheapest repair is taken.
    """

    name = "round-robin"

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Deal all, or deal again what no longer fits."""
        return decide_on_draft(observation, placement, self._deal if placement is None else self._deal_again, self.name)

    def _deal(self, draft: Draft) -> None:
        checking = ForwardChecking(draft, self.name)
        turn = 0
        devices = len(draft.budgets)
        for slot in range(len(draft.blocks)):
            order = [(turn + step) % devices for step in range(devices)]
            device = next(device for device in order if checking.allows(slot, device))
            checking.assign(slot, device)
            turn = device + 1
        draft.refresh()

    def _deal_again(self, draft: Draft) -> None:
        devices = len(draft.budgets)
        turn = 0
        for device in draft.overloaded():
            for slot in reversed([slot for slot, where in enumerate(draft.where) if where == device]):
                if not draft.excess(device):
                    break
                order = [(turn + step) % devices for step in range(devices)]
                target = next((to for to in order if to != device and draft.room_for(slot, to)), None)
                if target is not None:
                    draft.apply([(slot, target)])
                    turn = target + 1
        if draft.overloaded():
            draft.apply([(slot, device) for slot, device in enumerate(draft.old) if draft.where[slot] != device])
            repair(draft, self.name)
