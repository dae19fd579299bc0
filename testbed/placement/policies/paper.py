"""`paper`: the method of arXiv 2505.02533 as it is written, with no search of ours.

Source: Kafetzis, Khalili, Koutsopoulos, *Large Language Model Partitioning for Low-Latency Inference at the Edge*,
arXiv 2505.02533. Where the text leaves a point open, the authors' public simulator was looked at too
(github.com/Dimitrios-Kafetzis/DistributedTransformerInferenceSimulator); none of its code is here.

Each decision takes the blocks in descending demand. The score S(i, j) of block i on device j combines three ratios:
memory, compute and communication. With `score: max` it is the largest of them. With `score: weighted` it is their
weighted sum, with `weights` in that order. By default these are 0.3, 0.4 and 0.3, as in the simulator, whose first and
largest weight is that of compute. A device is feasible for a block if S is at most 1.

- *The first decision* puts each block on the feasible device with the lowest score. If there is none, overload
  resolution follows, and then bounded backtracking.
- *Later decisions* score each block anew, with all others where they are. The block moves to the feasible device with
  the lowest score if the sum of migration delay and inference delay falls. It must move if its device can no longer
  hold it. Each block is looked at once.

What the paper leaves open, and what was chosen:

- *Layers*: the paper has one decoder layer. Here the blocks of all layers are taken in one order, and shards, sums and
  parts of the LM head are blocks like the others.
- *Demand* is the block's share of the fleet's memory, or of the fleet's compute within the deadline, whichever is
  larger. Ties are broken in token order. The simulator adds memory and operations, over those of the largest device.
- *Ratios* refer to what the other blocks leave of a device. The simulator divides by the whole device.
- *Memory* is that of the interval's last token, since the method is myopic; the run's end plays no part. Until a
  migration's commit a device holds its old blocks beside the incoming ones, as under every policy.
- *Deadline* is the time per token to which compute and communication refer. By default it is `DEADLINE_FACTOR` times
  the time of one pass over all blocks, if they are spread in proportion to memory and nothing is sent.
- *Communication* is the time of the block's messages from and to placed neighbours on other devices. When a block
  moves, the others keep the link time that they were charged. The simulator counts only messages to the block.
- *Overload resolution*: a time ratio over 1 only means slow. So the device with the lowest score takes the block if
  it has enough memory.
- *Backtracking* is for a block that fits nowhere. On the device with the most free memory, the latest placements move
  elsewhere, to feasible devices, at most `BACKTRACK_LIMIT` of them per block. If the block still does not fit, the
  policy finds no placement. It packs nothing anew.
- *Delays* are those of the cost model over the coming interval, by which all policies are judged. The paper has bytes
  over rate for a migration; its inference delay is that of the slowest head, then proj, then ffn.
- *Must move*: a block leaves a device only while the device's blocks exceed its memory, the largest demand first. A
  score over 1 alone forces no move.
- *The source* may have blocks. The simulator keeps them off it.
- *Equal scores*: the device whose name comes first. So the order of devices plays no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from testbed.errors import ConfigError
from testbed.placement.blocks import ATTENTION, Placement, layer_blocks
from testbed.placement.cost.memory import Infeasible, Shortage
from testbed.placement.cost.model import CostModel, cost_model
from testbed.placement.local.backtracking import backtrack
from testbed.placement.local.draft import UNPLACED, Draft
from testbed.placement.observation import Observation
from testbed.placement.plan import choice_payload, result_payload, x_payload
from testbed.placement.policy_options import deadline_option
from testbed.placement.useful import decide_on_useful
from testbed.strict_yaml import shown

DEADLINE_FACTOR = 2.0  # slack over the ideal single pass, for the transfers that the ideal leaves out
WEIGHTS = (0.3, 0.4, 0.3)  # of memory, compute and communication: those of the authors' simulator
INFINITE = 1e12  # a ratio where nothing is left; as a number, because a weight may be 0
LEAST_GAIN_S = 1e-7  # a smaller predicted fall of the delay may be rounding
SCORES = ("max", "weighted")
NO_ROOM = "no device has room for a block, and backtracking makes none"


class Paper:
    """The paper's policy; `deadline` is a duration (`500 ms`) or seconds, None for the default."""

    name = "paper"

    def __init__(self, score: object = "max", deadline: object = None, weights: object = None) -> None:
        if score not in SCORES:
            raise ConfigError(f"policy {self.name}: score is {shown(score)}, but it must be {' or '.join(SCORES)}")
        if weights is not None and score != "weighted":
            raise ConfigError(f"policy {self.name}: weights are those of score: weighted, and score is {shown(score)}")
        self._weights = None if score == "max" else _three(WEIGHTS if weights is None else weights, self.name)
        self._deadline_s = deadline_option(self.name, deadline)

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place the blocks by their scores, or move those for which it pays and those that must move."""
        return decide_on_useful(observation, placement, lambda seen: self._decided(seen, placement), self.name, True)

    def _decided(self, observation: Observation, old: Placement | None) -> Placement:
        by_name = tuple(sorted(observation.devices, key=lambda view: view.name))
        draft = Draft(cost_model(replace(observation, devices=by_name)), old, old, reserve=False)
        scores = Scores(draft, self._deadline_s or default_deadline(draft.model), self._weights)
        lacking = scores.place_all() if old is None else scores.migrate()
        if lacking is not None:
            raise _refusal(draft, lacking, self.name)
        return draft.placement(old)


def _three(given: object, who: str) -> tuple[float, ...]:
    """The weights of the three ratios; raises ConfigError unless they are three numbers of which none is negative."""
    numbers = given if isinstance(given, list | tuple) else ()
    if len(numbers) != 3 or any(type(one) not in (int, float) or not 0 <= one < float("inf") for one in numbers):
        raise ConfigError(
            f"policy {who}: weights is {shown(given)}, but it must be three numbers of at least 0, those of memory, "
            "compute and communication, like [0.4, 0.3, 0.3]"
        )
    return tuple(map(float, numbers))


def _refusal(draft: Draft, slot: int, who: str) -> Infeasible:
    """The error about a block that found no device."""
    roomiest = max(draft.devices, key=draft.room)
    need = draft.budgets[roomiest] - draft.room(roomiest) + draft.end_sizes[slot]
    shortage = Shortage(draft.model.names[roomiest], need, draft.budgets[roomiest], NO_ROOM)
    done, block = draft.observation.tokens_done, draft.blocks[slot]
    return Infeasible(f"{who} found no placement that fits after {done} tokens: for {block}, {shortage}", shortage)


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


class Scores:
    """Scores of blocks on devices, and the placements that they lead to.

    A block is its slot in the draft. `busy_s` and `link_s` have the compute time and the link time of one token that
    each device's blocks were charged.
    """

    def __init__(self, draft: Draft, deadline_s: float, weights: tuple[float, ...] | None = None) -> None:
        self.draft = draft
        self.model = draft.model
        self.deadline_s = deadline_s
        self._weights = weights  # None: the largest ratio counts
        length = self.model.lengths[1]
        self.block_s = [self.model.seconds(kind, length) for kind in draft.slots.kinds]  # [kind][device]
        self.order = self._by_demand()
        self._messages = _Messages(self.model)
        self.busy_s = [0.0] * len(draft.devices)
        self.link_s = [0.0] * len(draft.devices)
        self._booked_s = [0.0] * len(draft.blocks)
        self._latest = list(self.order) if draft.old else []  # slots in the order in which they were placed
        for slot, device in enumerate(draft.old):
            self._charge(slot, UNPLACED, device)

    def _by_demand(self) -> list[int]:
        """The slots in descending demand."""
        draft = self.draft
        memory, fleet_s = max(1, sum(draft.budgets)), len(draft.devices) * self.deadline_s
        compute = [sum(seconds) / len(seconds) / fleet_s for seconds in self.block_s]
        demands = [
            max(draft.reserved_sizes[slot] / memory, compute[draft.kind(slot)]) for slot in range(len(draft.blocks))
        ]
        return sorted(range(len(demands)), key=lambda slot: (-demands[slot], slot))

    # --- scores -----------------------------------------------------------------------------------------------

    def scores(self, slot: int, devices: Iterable[int]) -> list[tuple[float, int]]:
        """(score, device) of a block on each of these devices, against what the other blocks leave of them."""
        draft, kind = self.draft, self.draft.kind(slot)
        here, size, seconds = draft.where[slot], draft.reserved_sizes[slot], self.block_s[kind]
        link_s = self._communication(slot)
        budgets, reserved, busy_s, booked_s = draft.budgets, draft.reserved_bytes, self.busy_s, self.link_s
        deadline_s, weights, found = self.deadline_s, self._weights, []
        for device in devices:  # tens of thousands of times in a decision, so without calls
            compute_s, message_s = seconds[device], link_s[device]
            room, idle, quiet = (
                budgets[device] - reserved[device],
                deadline_s - busy_s[device],
                deadline_s - booked_s[device],
            )
            if device == here:
                room, idle, quiet = room + size, idle + compute_s, quiet + self._booked_s[slot]
            memory = size / room if room > 0 else INFINITE
            compute = compute_s / idle if idle > 0 else INFINITE
            communication = message_s / quiet if quiet > 0 else INFINITE if message_s > 0 else 0.0
            if weights is None:
                score = max(memory, compute, communication)
            else:
                score = weights[0] * memory + weights[1] * compute + weights[2] * communication
            found.append((score, device))
        return found

    def _communication(self, slot: int) -> list[float]:
        """Seconds of the messages that this block would exchange with placed neighbours, for each device."""
        slots, where, shape = self.draft.slots, self.draft.where, self.model.shape
        source, x = self.model.source, x_payload(shape)
        if slot in slots.vocab:
            return self._messages.seconds({source}, {source}, choice_payload(1))
        if not slots.hub:  # partial sums come from all devices in use and go to all of them
            used = {source, *where[: slots.vocab.start]}
            return self._messages.seconds(used, used, x)
        senders, receivers = self._neighbours(slot)
        head = self.draft.blocks[slot].kind == "head" and not self.model.halves[ATTENTION].partial
        return self._messages.seconds(senders, receivers, result_payload(shape, 1) if head else x)

    def _neighbours(self, slot: int) -> tuple[set[int], set[int]]:
        """(devices whose messages the block needs, devices that need its result); one may be UNPLACED."""
        slots, where = self.draft.slots, self.draft.where
        layer, half = slots.half_of(slot)
        middle, end = where[slots.attention_target(layer)], where[slots.ffn_target(layer)]
        holder, heads, shards = self.draft.holder(layer), slots.heads(layer), slots.shards(layer)
        if slot in heads:
            return {holder}, {middle}
        if half == ATTENTION:
            return {holder, *(where[head] for head in heads)}, {where[part] for part in slots.ffn(layer)}
        if slot in shards:
            return {middle}, {end}
        senders = {middle, *(where[shard] for shard in shards)}
        if layer + 1 == self.draft.layers:
            return senders, {self.model.source}
        return senders, {where[part] for part in slots.attention(layer + 1)}

    def _charge(self, slot: int, before: int, device: int) -> None:
        """Charge a device for a block that comes to it, and credit the device that had it before."""
        seconds = self.block_s[self.draft.kind(slot)]
        if before != UNPLACED:
            self.busy_s[before] -= seconds[before]
            self.link_s[before] -= self._booked_s[slot]
        self._booked_s[slot] = self._communication(slot)[device]
        self.busy_s[device] += seconds[device]
        self.link_s[device] += self._booked_s[slot]

    def _lowest(self, slot: int) -> tuple[float, int] | None:
        """(score, device) of the lowest score on another device with room for the block; None if there is none."""
        draft, here = self.draft, self.draft.where[slot]
        others = (device for device in draft.devices if device != here and draft.room_for(slot, device))
        return min(self.scores(slot, others), default=None)

    # --- the first placement ------------------------------------------------------------------------------------

    def place_all(self) -> int | None:
        """Place every block; returns the first one that finds no device with enough memory, or None."""
        for slot in self.order:
            scored = self._lowest(slot)
            if scored is not None:  # a score above 1 is overload resolution: there is memory, but it will be slow
                self._put(slot, scored[1])
            elif not self._backtrack(slot):
                return slot
        self.draft.refresh()
        return None

    def _put(self, slot: int, device: int) -> None:
        self._charge(slot, self.draft.where[slot], device)
        if self.draft.old:
            self.draft.apply([(slot, device)])
        else:
            self.draft.place(slot, device)
        self._latest.append(slot)

    def _backtrack(self, slot: int) -> bool:
        """Put a block on the device with most memory free, off which a few of its latest blocks go; False if not."""
        draft, here = self.draft, self.draft.where[slot]
        others = [device for device in draft.devices if device != here]
        if not others:
            return False
        device = max(others, key=lambda d: (draft.budgets[d] - draft.reserved_bytes[d], -d))
        return backtrack(draft, slot, device, self._latest, self._lowest, self._put)

    # --- later decisions ----------------------------------------------------------------------------------------

    def migrate(self) -> int | None:
        """Score every block anew, and move those that must or that pay; returns one that must and cannot, or None."""
        draft = self.draft
        for slot in self.order:
            self._reconsider(slot)
        for device in draft.overloaded():
            for slot in [slot for slot in self.order if draft.where[slot] == device]:
                if draft.excess(device):
                    self._backtrack(slot)
        overloaded = draft.overloaded()
        return next((slot for slot in self.order if draft.where[slot] in overloaded), None)

    def _reconsider(self, slot: int) -> None:
        """Move a block to the device with the lowest score, if it must leave its own or if the delays fall."""
        draft, here = self.draft, self.draft.where[slot]
        if draft.excess(here):
            scored = self._lowest(slot)
            if scored is not None:
                self._put(slot, scored[1])
            return
        able = (device for device in draft.devices if device == here or draft.room_for(slot, device))
        score, device = min(self.scores(slot, able))
        if device == here or score > 1:
            return
        cost = draft.cost
        undo = draft.try_shifts([(slot, device)], below=cost)
        if undo is None:
            return
        if draft.cost < cost - LEAST_GAIN_S:
            self._charge(slot, here, device)
            self._latest.append(slot)
        else:
            draft.take_back(undo)


class _Messages:
    """The times of messages between devices, each looked up once."""

    def __init__(self, model: CostModel) -> None:
        self._model = model
        self._rows: dict[tuple[int, float, bool], list[float]] = {}
        self._sums: dict[tuple[frozenset[int], frozenset[int], float], list[float]] = {}

    def seconds(self, senders: set[int], receivers: set[int], result: float) -> list[float]:
        """For each device, the seconds of x from each sender and of a result to each receiver, other than itself."""
        key = (frozenset(senders), frozenset(receivers), result)
        found = self._sums.get(key)
        if found is None:
            x = x_payload(self._model.shape)
            into = [self._row(sender, x, False) for sender in senders - {UNPLACED}]
            out = [self._row(receiver, result, True) for receiver in receivers - {UNPLACED}]
            nothing = [[0.0] * len(self._model.names)]
            sums = zip(
                map(sum, zip(*(into or nothing), strict=True)),
                map(sum, zip(*(out or nothing), strict=True)),
                strict=True,
            )
            found = self._sums[key] = [come + go for come, go in sums]
        return found

    def _row(self, other: int, payload: float, back: bool) -> list[float]:
        """Seconds of one message from a device to each of all, or back from each of them; 0 for itself."""
        key = (other, payload, back)
        found = self._rows.get(key)
        if found is None:
            devices = range(len(self._model.names))
            pairs = [(device, other) if back else (other, device) for device in devices]
            found = self._rows[key] = [
                0.0 if source == target else self._model.transfer(source, target, payload) for source, target in pairs
            ]
        return found
