"""`greedy`: the least added latency, block by block."""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.local.draft import UNPLACED, Draft, decide_on_draft
from testbed.placement.local.forward_checking import ForwardChecking
from testbed.placement.local.improve import WORTHWHILE_S, repair
from testbed.placement.observation import Observation


class Greedy:
    """Each block, in token order, to the device that adds the least latency given what is placed so far.

    While a layer's heads are placed its proj is not; they are judged by when their results would be back at the
    device that holds x, and an FFN's shards likewise. Memory is respected, with a look ahead so that what is left
    still fits. At later decisions what no longer fits moves first; then each block in token order goes where the
    predicted interval cost is lowest, its migration included. Ties go to the device with the lower index.
    """

    name = "greedy"

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place all, or repair and then reconsider each block once."""
        return decide_on_draft(
            observation, placement, self._place if placement is None else self._reconsider, self.name
        )

    def _place(self, draft: Draft) -> None:
        checking = ForwardChecking(draft, self.name)
        devices = range(len(draft.budgets))
        for slot in range(len(draft.blocks)):
            added = sorted((_added_latency(draft, slot, device), device) for device in devices)
            checking.assign(slot, next(device for _, device in added if checking.allows(slot, device)))
        draft.refresh()

    def _reconsider(self, draft: Draft) -> None:
        repair(draft, self.name)
        cost = draft.cost
        for slot in range(len(draft.blocks)):
            for device in range(len(draft.budgets)):
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
    model = draft.model
    if slot >= draft.layer_slots:
        vocab = list(draft.vocab_counts)
        vocab[device] += 1
        return model.vocab(tuple(vocab))
    layer, part = divmod(slot, draft.stride)
    if not draft.hub:
        return _added_together(draft, layer, part, device)
    holder = draft.holder(layer)
    counts = list(draft.counts[layer])
    if part < draft.heads:
        counts[device] += 1
        return model.attention(holder, holder, tuple(counts))
    if part == draft.heads:
        return model.attention(holder, device, tuple(counts))
    middle = draft.where[layer * draft.stride + draft.heads]
    shards = list(draft.shard_counts[layer])
    if part + 1 < draft.stride:
        shards[device] += 1
        return model.ffn(middle, middle, tuple(shards))
    home = model.source_seconds(device, lm_head=False) if layer + 1 == draft.layers else 0.0
    return model.ffn(middle, device, tuple(shards)) + home


def _added_together(draft: Draft, layer: int, part: int, device: int) -> float:
    """With an all-to-all exchange: seconds of the half up to this block, as if those placed so far all needed x."""
    half = int(part >= draft.heads)
    counts = list((draft.shard_counts if half else draft.counts)[layer])
    counts[device] += 1
    known = {*draft.where, device} - {UNPLACED, draft.model.source}
    return draft.model.all_to_all(half, tuple(counts), tuple(sorted(known)))
