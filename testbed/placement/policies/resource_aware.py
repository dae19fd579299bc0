"""`resource-aware`: the paper's algorithm, placing and migrating blocks by residual capacity.

Source: Kafetzis, Khalili, Koutsopoulos, *Large Language Model Partitioning for Low-Latency Inference at the
Edge*, arXiv 2505.02533. Blocks in descending demand; the score of a block on a device is the largest of its
memory, compute and communication ratio; the device with the lowest score takes it if the score is at most 1;
bounded backtracking, then overload resolution where none is. From the second decision on a block moves if its
device can no longer hold it, or if moving lowers predicted migration + inference delay over the interval.

Where it had to be interpreted:

- *Demand* is the block's share of the fleet's memory (with its cache grown to the run's end), or of the fleet's compute
  within the deadline, whichever is larger; ties in token order.
- *Residual*: memory left beside what is placed; compute time and link time left of the deadline beside what is
  placed (a device's blocks of one token add up, and so do the transfers of its link).
- *Communication* of a block on a device is the time of its messages from and to the neighbours placed so far
  that are elsewhere, in both directions.
- *Deadline* is the per-token time scale of the last two ratios. Default: `DEADLINE_FACTOR` times the time one
  pass over all blocks takes when they are spread in proportion to memory and nothing is sent.
- *Backtracking*: the latest placements on the device with the most room are moved elsewhere (score at most 1)
  until the block fits, at most `BACKTRACK_LIMIT` of them per block. *Overload resolution*: a ratio of time above
  1 only means slow, so the lowest score among the devices with enough memory takes the block; if none has, the
  memory is packed anew, exactly.
- *What pays*: predicted costs are those of a whole token, so groups that only pay together (a layer, its
  attention half, all its heads on one device, an exchange of two layers) are tried as one move.
- *The first decision* tries the same moves at a migration delay of zero, because nothing is loaded yet;
  otherwise the second decision would have to pay for them. `refine_first: false` leaves the scores' placement.
"""

from __future__ import annotations

from collections import Counter

from testbed.errors import ConfigError
from testbed.placement.blocks import ATTENTION, Placement, layer_blocks
from testbed.placement.cost.latency import transfer_seconds
from testbed.placement.cost.memory import refuse_shortages
from testbed.placement.cost.model import CostModel
from testbed.placement.local.draft import UNPLACED, Draft, decide_on_draft, fill_draft
from testbed.placement.local.forward_checking import ForwardChecking
from testbed.placement.local.improve import improve, repair
from testbed.placement.observation import Observation
from testbed.placement.plan import choice_payload, result_payload, x_payload
from testbed.placement.policy_options import duration_option

DEADLINE_FACTOR = 2.0  # slack over the ideal single pass, for the transfers that the ideal leaves out
BACKTRACK_LIMIT = 8  # placements undone for one block


class ResourceAware:
    """The paper's policy; `deadline` is a duration (`500 ms`) or seconds, None for the default."""

    name = "resource-aware"

    def __init__(self, deadline: object = None, refine_first: bool = True) -> None:
        if not isinstance(refine_first, bool):
            raise ConfigError(f"policy resource-aware: refine_first is {refine_first!r}, but it must be true or false")
        self._deadline = duration_option(self.name, "deadline", deadline)
        if self._deadline == 0:
            raise ConfigError("policy resource-aware: deadline must be longer than 0 s, like '500 ms'")
        self._refine_first = refine_first

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place by scores, or move what must and what pays."""
        return decide_on_draft(observation, placement, self._place if placement is None else self._move, self.name)

    def place(self, observation: Observation) -> Placement:
        """A first placement on these devices, all of them; raises Infeasible."""
        return refuse_shortages(observation, None, fill_draft(observation, None, self._place), self.name)

    def _place(self, draft: Draft) -> None:
        if not _Scores(draft, self._deadline or default_deadline(draft.model)).place_all():
            draft.clear()
            checking = ForwardChecking(draft, self.name)
            for slot in range(len(draft.blocks)):
                devices = range(len(draft.budgets))
                checking.assign(slot, next(device for device in devices if checking.allows(slot, device)))
        draft.refresh()
        if self._refine_first:
            improve(draft)

    def _move(self, draft: Draft) -> None:
        repair(draft, self.name)
        improve(draft)


def default_deadline(model: CostModel) -> float:
    """`DEADLINE_FACTOR` times one pass over all blocks, spread in proportion to memory, with nothing sent."""
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
        devices = len(draft.budgets)
        self.busy_s = [0.0] * devices
        self.link_s = [0.0] * devices
        length = self.model.lengths[1]
        self.block_s = [self.model.seconds(kind, length) for kind in draft.kinds]  # [kind][device]
        self.booked: dict[int, float] = {}  # slot -> link time it was charged
        self._transfers: dict[tuple[int, int, float], float] = {}
        self.latest: list[int] = []  # slots in the order they were placed

    def place_all(self) -> bool:
        """Place every block; False if one finds no device with enough memory."""
        draft = self.draft
        memory, fleet = max(1, sum(draft.budgets)), len(draft.budgets) * self.deadline_s

        def demand(slot: int) -> float:
            seconds = self.block_s[draft.kind(slot)]
            return max(draft.reserved_sizes[slot] / memory, sum(seconds) / len(seconds) / fleet)

        for slot in sorted(range(len(draft.blocks)), key=lambda slot: (-demand(slot), slot)):
            scored = self._lowest(slot)
            if scored is not None:  # above 1 is overload resolution: there is memory, it will only be slow
                self._put(slot, scored[1])
            elif not self._backtrack(slot):
                return False
        return True

    def _lowest(self, slot: int, other_than: int = UNPLACED) -> tuple[float, int] | None:
        fitting = [device for device in range(len(self.draft.budgets)) if device != other_than]
        scores = [(self.score(slot, device), device) for device in fitting if self.draft.room_for(slot, device)]
        return min(scores, default=None)

    def score(self, slot: int, device: int) -> float:
        """max(memory, compute, communication ratio) against what is left on the device."""
        room = self.draft.budgets[device] - self.draft.reserved_bytes[device]
        memory = self.draft.reserved_sizes[slot] / room if room > 0 else float("inf")
        seconds = self.block_s[self.draft.kind(slot)][device]
        return max(
            memory,
            _ratio(seconds, self.deadline_s - self.busy_s[device]),
            _ratio(self._communication(slot, device), self.deadline_s - self.link_s[device]),
        )

    def _communication(self, slot: int, device: int) -> float:
        """Seconds of the messages this block would exchange with placed neighbours on other devices."""
        draft = self.draft
        x = result = x_payload(self.model.shape)
        if slot >= draft.layer_slots:
            return self._exchange(device, [self.model.source], [self.model.source], x, choice_payload(1))
        if not draft.hub:  # partial sums to and from all that are there
            there = [self.model.source, *draft.where[: draft.layer_slots]]
            return self._exchange(device, there, there, x, x)
        layer, part = divmod(slot, draft.stride)
        base = layer * draft.stride
        middle, end = base + draft.heads, base + draft.stride - 1
        into: list[int] = []
        out: list[int] = []
        if part < draft.heads:
            into, out = [draft.holder(layer)], [draft.where[middle]]
        elif part == draft.heads:
            into, out = [draft.holder(layer), *draft.where[base:middle]], draft.where[middle + 1 : end + 1]
        elif part < draft.stride - 1:
            into, out = [draft.where[middle]], [draft.where[end]]
        else:
            into = draft.where[middle:end]
            last = layer + 1 == draft.layers
            out = [self.model.source] if last else draft.where[end + 1 : end + 1 + draft.heads + 1]
        if part < draft.heads and not self.model.halves[ATTENTION].partial:
            result = result_payload(self.model.shape, 1)
        return self._exchange(device, into, out, x, result)

    def _exchange(self, device: int, into: list[int], out: list[int], x: float, result: float) -> float:
        total = sum(self._transfer(other, device, x) for other in {*into} - {UNPLACED, device})
        return total + sum(self._transfer(device, other, result) for other in {*out} - {UNPLACED, device})

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
        """Move a few of the latest placements off the roomiest device so that the block fits there."""
        draft = self.draft
        device = max(range(len(draft.budgets)), key=lambda d: (draft.budgets[d] - draft.reserved_bytes[d], -d))
        moved = 0
        for earlier in list(reversed(self.latest)):
            if moved == BACKTRACK_LIMIT or draft.room_for(slot, device):
                break
            if draft.where[earlier] != device or earlier == slot:
                continue
            scored = self._lowest(earlier, other_than=device)
            if scored is not None and scored[0] <= 1:
                self._put(earlier, scored[1])
                moved += 1
        if not draft.room_for(slot, device):
            return False
        self._put(slot, device)
        return True


def _ratio(asked: float, left: float) -> float:
    if asked <= 0:
        return 0.0
    return asked / left if left > 0 else float("inf")
