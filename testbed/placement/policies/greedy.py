"""`greedy`: the least added latency, block by block."""

from __future__ import annotations

from testbed.placement.blocks import ATTENTION, FFN, Placement
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import UNPLACED, Draft
from testbed.placement.local.forward_checking import ForwardChecking
from testbed.placement.local.improve import WORTHWHILE_S
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation


class Greedy:
    """Each block, in token order, goes to the device that adds the least latency to what is placed so far.

    A layer's heads are placed before its projection; until then their results count as going back to the device that
    holds x. An FFN's shards are judged in the same way. A device may take a block only if the blocks that are left
    still fit. At later decisions, first what no longer fits is moved. Then each block in token order goes where
    the predicted interval cost is lowest, its migration included. Ties go to the device with the lower index.
    """

    name = "greedy"

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place all blocks, or repair the present placement and reconsider each block once."""
        change = self._place if placement is None else self._reconsider
        return decide_on_draft(observation, placement, change, self.name)

    def _place(self, draft: Draft) -> None:
        checking = ForwardChecking(draft, self.name)
        for slot in range(len(draft.blocks)):
            added = sorted((_added_latency(draft, slot, device), device) for device in draft.devices)
            checking.assign(slot, next(device for _, device in added if checking.allows(slot, device)))
        draft.refresh()

    def _reconsider(self, draft: Draft) -> None:
        repair(draft, self.name)
        cost = draft.cost
        for slot in range(len(draft.blocks)):
            for device in draft.devices:
                undo = draft.try_shifts([(slot, device)])
                if undo is None:
                    continue
                now = draft.cost
                if now < cost - WORTHWHILE_S:
                    cost = now
                else:
                    draft.take_back(undo)


def _added_latency(draft: Draft, slot: int, device: int) -> float:
    """Seconds the token would take up to this block on that device, past what is the same for every device."""
    model, slots = draft.model, draft.slots
    if slot in slots.vocab:
        return model.vocab(_one_more(draft.vocab_counts, device))
    layer, half = draft.half_of(slot)
    if not slots.hub:
        return _added_without_hub(draft, layer, half, device)
    holder, heads, shards = draft.holder(layer), draft.head_counts[layer], draft.shard_counts[layer]
    if slot in draft.heads(layer):
        return model.attention(holder, holder, _one_more(heads, device))
    if half == ATTENTION:
        return model.attention(holder, device, tuple(heads))
    middle = draft.where[slots.attention_target(layer)]
    if slot in draft.shards(layer):
        return model.ffn(middle, middle, _one_more(shards, device))
    home = model.source_seconds(device, lm_head=False) if layer + 1 == draft.layers else 0.0
    return model.ffn(middle, device, tuple(shards)) + home


def _added_without_hub(draft: Draft, layer: int, half: int, device: int) -> float:
    """With an all-to-all exchange: seconds of the half up to this block, as if all devices used so far needed x."""
    counts = (draft.shard_counts if half == FFN else draft.head_counts)[layer]
    known = {*draft.where, device} - {UNPLACED, draft.model.source}
    return draft.model.all_to_all(half, _one_more(counts, device), tuple(sorted(known)))


def _one_more(counts: list[int], device: int) -> tuple[int, ...]:
    """The counts with one block more on a device."""
    more = list(counts)
    more[device] += 1
    return tuple(more)
