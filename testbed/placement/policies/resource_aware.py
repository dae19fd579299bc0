"""`resource-aware`: the paper's algorithm, which places and migrates blocks by residual capacity.

Source: Kafetzis, Khalili, Koutsopoulos, *Large Language Model Partitioning for Low-Latency Inference at the
Edge*, arXiv 2505.02533. Blocks are placed in descending demand. The score of a block on a device is the largest of its
memory, compute and communication ratios. The device with the lowest score takes the block if that score is at most 1.
If no device can, bounded backtracking follows, and then overload resolution. From the second decision on, a block moves
if its device can no longer hold it, or if moving lowers the predicted migration + inference delay over the interval.

Where it had to be interpreted:

- *Demand* is the block's share of the fleet's memory (with its cache grown to the run's end), or of the fleet's compute
  within the deadline, whichever is larger. Ties are broken in token order.
- *Residual*: memory, compute time and link time left beside what is placed. The two times are what is left of the
  deadline: the blocks of a device add up within one token, and so do the transfers of its link.
- *Communication* of a block on a device is the time of its messages from and to those neighbours that are already
  placed on other devices, in both directions.
- *Deadline* is the time per token that the last two ratios refer to. By default it is `DEADLINE_FACTOR` times the time
  of one pass over all blocks, if they are spread in proportion to memory and nothing is sent.
- *Backtracking*: to make a block fit on the device with the most free memory, the latest placements there are moved
  elsewhere (with a score of at most 1), at most `BACKTRACK_LIMIT` of them per block. *Overload resolution*: a ratio of
  time above 1 only means slow, so the device with the lowest score takes the block if it has enough memory. If no
  device has, the memory is packed anew, exactly.
- *What pays*: predicted costs are those of a whole token. So groups that only pay together (a layer, its attention
  half, all its heads on one device, an exchange of two layers) are tried as one move.
- *The first decision* tries the same moves at a migration delay of zero, because nothing is loaded yet; otherwise the
  second decision would have to pay for them. `refine_first: false` keeps the placement that the scores give.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

from testbed.placement.blocks import ATTENTION, Placement, layer_blocks
from testbed.placement.cost.memory import refuse_shortages
from testbed.placement.cost.model import CostModel
from testbed.placement.latency import transfer_seconds
from testbed.placement.local.backtracking import backtrack, ratio
from testbed.placement.local.decision import change_draft, decide_on_draft
from testbed.placement.local.draft import UNPLACED, Draft
from testbed.placement.local.forward_checking import ForwardChecking
from testbed.placement.local.improve import improve
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation
from testbed.placement.plan import choice_payload, result_payload, x_payload
from testbed.placement.policy_options import boolean_option, deadline_option

DEADLINE_FACTOR = 2.0  # slack over the ideal single pass, for the transfers that the ideal leaves out


class ResourceAware:
    """The paper's policy; `deadline` is a duration (`500 ms`) or seconds, None for the default."""

    name = "resource-aware"
    improves_drafts = True

    def __init__(self, deadline: object = None, refine_first: bool = True) -> None:
        self._refine_first = boolean_option(self.name, "refine_first", refine_first)
        self._deadline_s = deadline_option(self.name, deadline)

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place by scores, or move the blocks that must move and those for which it pays."""
        change = self._place if placement is None else self._move
        return decide_on_draft(observation, placement, change, self.name)

    def place(self, observation: Observation) -> Placement:
        """A first placement that may use all devices of the observation; raises Infeasible."""
        return refuse_shortages(observation, None, change_draft(observation, None, self._place), self.name)

    def _place(self, draft: Draft) -> None:
        if not _Scores(draft, self._deadline_s or default_deadline(draft.model)).place_all():
            draft.clear()
            checking = ForwardChecking(draft, self.name)
            for slot in range(len(draft.blocks)):
                checking.assign(slot, next(device for device in draft.devices if checking.allows(slot, device)))
        draft.refresh()
        if self._refine_first:
            improve(draft)

    def _move(self, draft: Draft) -> None:
        repair(draft, self.name)
        improve(draft)


def default_deadline(model: CostModel) -> float:
    """Seconds: `DEADLINE_FACTOR` times one pass over all blocks, spread in proportion to memory, with nothing sent."""
    memory = [view.available_bytes for view in model.observation.devices]
    if not any(memory):
        memory = [1] * len(memory)
    whole = sum(memory)
    shape, length = model.shape, model.lengths[1]
    kinds = Counter(block.kind for block in layer_blocks(shape, model.partition, 0))
    each = [[count * seconds for seconds in model.seconds(kind, length)] for kind, count in kinds.items()]
    alone = [shape.layers * sum(device) for device in zip(*each, strict=True)]
    if model.partition.vocab_shards > 1:
        shards = [model.partition.vocab_shards * seconds for seconds in model.seconds("vocab", length)]
        alone = [layers + head for layers, head in zip(alone, shards, strict=True)]
    return DEADLINE_FACTOR * sum(share / whole * seconds for share, seconds in zip(memory, alone, strict=True))


class _Scores:
    """The first placement: descending demand, lowest score, backtracking, overload resolution."""

    def __init__(self, draft: Draft, deadline_s: float) -> None:
        self.draft = draft
        self.model = draft.model
        self.deadline_s = deadline_s
        devices = len(draft.devices)
        self.busy_s = [0.0] * devices
        self.link_s = [0.0] * devices
        length = self.model.lengths[1]
        self.block_s = [self.model.seconds(kind, length) for kind in draft.slots.kinds]  # [kind][device]
        self.booked: dict[int, float] = {}  # slot -> seconds of link time that it was charged
        self._transfers: dict[tuple[int, int, float], float] = {}
        self.latest: list[int] = []  # slots in the order they were placed

    def place_all(self) -> bool:
        """Place every block; False if one finds no device with enough memory."""
        draft = self.draft
        memory, fleet_s = max(1, sum(draft.budgets)), len(draft.devices) * self.deadline_s

        def demand(slot: int) -> float:
            seconds = self.block_s[draft.kind(slot)]
            return max(draft.reserved_sizes[slot] / memory, sum(seconds) / len(seconds) / fleet_s)

        for slot in sorted(range(len(draft.blocks)), key=lambda slot: (-demand(slot), slot)):
            scored = self._lowest(slot)
            if scored is not None:  # a score above 1 is overload resolution: there is memory, but it will be slow
                self._put(slot, scored[1])
            elif not self._backtrack(slot):
                return False
        return True

    def _lowest(self, slot: int, other_than: int = UNPLACED) -> tuple[float, int] | None:
        """(score, device) of the device with the lowest score among those where it fits; None where none has."""
        others = [device for device in self.draft.devices if device != other_than]
        scores = [(self.score(slot, device), device) for device in others if self.draft.room_for(slot, device)]
        return min(scores, default=None)

    def score(self, slot: int, device: int) -> float:
        """max(memory, compute, communication ratio) against what is left on the device."""
        room = self.draft.budgets[device] - self.draft.reserved_bytes[device]
        memory = self.draft.reserved_sizes[slot] / room if room > 0 else float("inf")
        seconds = self.block_s[self.draft.kind(slot)][device]
        return max(
            memory,
            ratio(seconds, self.deadline_s - self.busy_s[device]),
            ratio(self._communication(slot, device), self.deadline_s - self.link_s[device]),
        )

    def _communication(self, slot: int, device: int) -> float:
        """Seconds of the messages this block would exchange with placed neighbours on other devices."""
        draft, slots, source = self.draft, self.draft.slots, self.model.source
        x = result = x_payload(self.model.shape)
        if slot in slots.vocab:
            return self._exchange(device, [source], [source], x, choice_payload(1))
        if not slots.hub:  # partial sums come from all devices in use and go to all of them
            used = [source, *draft.where[: slots.vocab.start]]
            return self._exchange(device, used, used, x, x)
        if draft.blocks[slot].kind == "head" and not self.model.halves[ATTENTION].partial:
            result = result_payload(self.model.shape, 1)
        senders, receivers = self._neighbours(slot)
        return self._exchange(device, senders, receivers, x, result)

    def _neighbours(self, slot: int) -> tuple[list[int], list[int]]:
        """(devices whose messages the block needs, devices that need its result); some may be UNPLACED."""
        slots, where = self.draft.slots, self.draft.where
        layer, half = self.draft.half_of(slot)
        middle, end = where[slots.attention_target(layer)], where[slots.ffn_target(layer)]
        holder, heads, shards = self.draft.holder(layer), slots.heads(layer), slots.shards(layer)
        if slot in heads:
            return [holder], [middle]
        if half == ATTENTION:
            return [holder, *(where[head] for head in heads)], [where[part] for part in slots.ffn(layer)]
        if slot in shards:
            return [middle], [end]
        senders = [middle, *(where[shard] for shard in shards)]
        if layer + 1 == self.draft.layers:
            return senders, [self.model.source]
        return senders, [where[part] for part in slots.attention(layer + 1)]

    def _exchange(self, device: int, senders: list[int], receivers: list[int], x: float, result: float) -> float:
        """Seconds of one message from each sender and one to each receiver, other than the device itself."""
        total = sum(self._transfer(other, device, x) for other in {*senders} - {UNPLACED, device})
        return total + sum(self._transfer(device, other, result) for other in {*receivers} - {UNPLACED, device})

    def _transfer(self, source: int, target: int, payload: float) -> float:
        key = (source, target, payload)
        found = self._transfers.get(key)
        if found is None:
            observation, names = self.model.observation, self.model.names
            found = transfer_seconds(
                observation.path(names[source], names[target]), payload, observation.hop_overhead_s
            )
            self._transfers[key] = found
        return found

    def _put(self, slot: int, device: int) -> None:
        """Place a block and charge its device; a block that was elsewhere is credited there."""
        before = self.draft.where[slot]
        seconds = self.block_s[self.draft.kind(slot)]
        if before != UNPLACED:
            self.busy_s[before] -= seconds[before]
            self.link_s[before] -= self.booked[slot]
        self.booked[slot] = self._communication(slot, device)
        self.busy_s[device] += seconds[device]
        self.link_s[device] += self.booked[slot]
        self.draft.place(slot, device)
        self.latest.append(slot)

    def _backtrack(self, slot: int) -> bool:
        """Place a block on the device with most memory free, off which a few of its latest blocks go; False if not."""
        draft = self.draft
        device = max(draft.devices, key=lambda d: (draft.budgets[d] - draft.reserved_bytes[d], -d))
        return backtrack(draft, slot, device, self.latest, partial(self._lowest, other_than=device), self._put)
