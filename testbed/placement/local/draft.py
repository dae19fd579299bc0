"""A placement in the making: predicted interval cost and memory, kept up to date move by move.

Policies that search work on a `Draft`; what they return is a `Placement`. A block is a slot number (its place in
`blocks_of`), a device its index. The figures are those of `costs` and `feasibility`, computed incrementally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from testbed.placement.blocks import ATTENTION, FFN, Placement, blocks_of, resident_bytes
from testbed.placement.cost.latency import STALLED_RATE
from testbed.placement.cost.memory import Infeasible, device_needs, refuse_shortages
from testbed.placement.cost.model import (
    MIGRATION_HANDSHAKE_S,
    CostModel,
    cached_length,
    cost_model,
    moved_bytes,
)
from testbed.placement.cost.paths import NumberedPaths
from testbed.placement.observation import Observation
from testbed.placement.tree import align, roots_of_mask
from testbed.placement.useful import reachable, with_room

UNPLACED = -1
Shift = tuple[int, int]  # (slot, device)


class Undo(NamedTuple):
    """What takes moves back: the moves that do it, last first, and the layers' seconds as they were."""

    moves: list[Shift]
    terms: dict[int, float]


class Draft:
    """Where each block would be after this decision, seen from where it is now.

    `where[slot]` is a device index or UNPLACED; `end_bytes[device]` what the device would hold at the interval's
    last token, `reserved_bytes[device]` at the length blocks must have room to grow to where they arrive: with
    `reserve` the run's last token, so that growing caches do not chase blocks about, else the interval's.
    """

    def __init__(self, model: CostModel, placed: Placement | None, old: Placement | None, reserve: bool = True) -> None:
        observation = model.observation
        self.model = model
        self.observation = observation
        self.blocks = blocks_of(observation.shape, observation.partition)
        self.heads = observation.shape.kv_heads
        self.layers = observation.shape.layers
        vocab = observation.partition.vocab_shards
        self.layer_slots = len(self.blocks) - (vocab if vocab > 1 else 0)  # after them the shards of the LM head
        self.stride = self.layer_slots // self.layers  # slots of one layer: heads, where they meet, the FFN's parts
        self.hub = observation.partition.hub  # else nothing meets anywhere, and a layer is heads and shards
        self.shards = self.stride - self.heads - 2 * self.hub  # of one FFN that is not whole
        self.first_shard = self.heads + self.hub
        self.kinds = tuple(dict.fromkeys(block.kind for block in self.blocks))
        self._kind_of = [self.kinds.index(block.kind) for block in self.blocks]
        self._examples = [self.blocks[self._kind_of.index(kind)] for kind in range(len(self.kinds))]
        self.budgets = [view.available_bytes for view in observation.devices]
        self.end_sizes = self._sizes(observation.final_length)
        grown = observation.final_length
        if reserve:
            grown = max(grown, observation.prompt_tokens + observation.tokens_max - 1)
        self.reserved_sizes = self._sizes(grown)
        self.now_sizes = self._sizes(observation.length)
        cached = cached_length(observation)
        moved = [moved_bytes(observation, block, cached) for block in self._examples]
        self._moved = [moved[kind] for kind in self._kind_of]
        devices = len(self.budgets)
        self.old = [model.index[old.devices[block]] for block in self.blocks] if old is not None else []
        self.epoch = old.epoch if old is not None else 0
        pinned = list(device_needs(observation, None, 0).values())
        self.pinned_bytes = tuple(pinned)
        self.end_bytes = list(pinned)
        self.reserved_bytes = list(pinned)
        self.both_bytes = list(pinned)  # old blocks plus incoming ones, at the present length
        for slot, device in enumerate(self.old):
            self.both_bytes[device] += self.now_sizes[slot]
        self.incoming = [0] * devices  # number of incoming blocks
        self._loaded = [0] * devices
        self._load_s = [1 / max(view.storage_Bps, STALLED_RATE) for view in observation.devices]
        self._ways = NumberedPaths(observation)
        self._carried = [0] * len(self._ways.seconds_per_byte)
        self._paths: dict[tuple[int, int], int] = {}
        self.where = [UNPLACED] * len(self.blocks)
        self.counts = [[0] * devices for _ in range(self.layers)]  # heads
        self.shard_counts = [[0] * devices for _ in range(self.layers)]
        self.vocab_counts = [0] * devices
        self._leaves = [[[0] * devices for _ in range(self.layers)] for _ in range(2)]  # of each half, as bits
        self._tallies = [self._tally(slot) for slot in range(len(self.blocks))]
        # Seconds per layer, of the way home, and of the LM head where it is cut.
        self.terms = [0.0] * (self.layers + 1 + (self.layer_slots < len(self.blocks)))
        if placed is not None:
            for slot, block in enumerate(self.blocks):
                self._put(slot, model.index[placed.devices[block]])
            self.refresh()

    def _sizes(self, length: int) -> list[int]:
        """Bytes of each block with caches of this length; blocks of a kind are alike."""
        seen = self.observation
        sizes = [resident_bytes(seen.shape, block, length, seen.partition) for block in self._examples]
        return [sizes[kind] for kind in self._kind_of]

    def kind(self, slot: int) -> int:
        """The block's kind as its number in `kinds`: 0 for a head, 1 for proj, 2 for an FFN or a shard of one."""
        return self._kind_of[slot]

    def size_of_kind(self, kind: int) -> int:
        """Bytes of one block of a kind, grown."""
        return self.reserved_sizes[self._kind_of.index(kind)]

    def end_size_of_kind(self, kind: int) -> int:
        """Bytes of one block of a kind at the interval's last token."""
        return self.end_sizes[self._kind_of.index(kind)]

    def _tally(self, slot: int) -> tuple[list[int], list[int], int] | None:
        """Where a head or shard is counted: counts and leaves by device, and its leaf as a bit."""
        if slot >= self.layer_slots:
            return self.vocab_counts, [0] * len(self.budgets), 1
        layer, part = divmod(slot, self.stride)
        if part < self.heads:
            return self.counts[layer], self._leaves[ATTENTION][layer], 1 << part
        if self.first_shard <= part < self.first_shard + self.shards:
            return self.shard_counts[layer], self._leaves[FFN][layer], 1 << (part - self.first_shard)
        return None

    # --- moving blocks about -------------------------------------------------------------------------------

    def _put(self, slot: int, device: int) -> None:
        before, size, reserved = self.where[slot], self.end_sizes[slot], self.reserved_sizes[slot]
        self.where[slot] = device
        tally = self._tallies[slot]
        for place, sign in ((before, -1), (device, 1)):
            if place == UNPLACED:
                continue
            self.end_bytes[place] += sign * size
            self.reserved_bytes[place] += sign * reserved
            if tally is not None:
                counts, leaves, leaf = tally
                counts[place] += sign
                leaves[place] ^= leaf
            if self.old and place != self.old[slot]:
                self._account(slot, self.old[slot], place, sign)

    def _account(self, slot: int, source: int, target: int, sign: int) -> None:
        sent, loaded = self._moved[slot]
        self.both_bytes[target] += sign * self.now_sizes[slot]
        self.incoming[target] += sign
        self._loaded[target] += sign * loaded
        path = (source, target)
        if sent:
            for link in self._ways.links(path):
                self._carried[link] += sign * sent
        left = self._paths.get(path, 0) + sign
        if left:
            self._paths[path] = left
        else:
            del self._paths[path]

    def apply(self, moves: Iterable[Shift]) -> Undo:
        """Carry out moves; returns what `take_back` needs. Only for drafts with every block placed."""
        undo = self._put_all(moves)
        for layer in undo.terms:
            self.terms[layer] = self.term(layer)
        return undo

    def take_back(self, undo: Undo) -> None:
        """Undo the latest moves that have not been taken back."""
        for slot, device in undo.moves:
            self._put(slot, device)
        for layer, seconds in undo.terms.items():
            self.terms[layer] = seconds

    def _put_all(self, moves: Iterable[Shift]) -> Undo:
        """Put blocks elsewhere; the terms of the `Undo` are those that no longer hold."""
        undo = Undo([], {})
        last = None if self.hub else self.last_halves()
        for slot, device in moves:
            undo.moves.append((slot, self.where[slot]))
            self._put(slot, device)
            if slot >= self.layer_slots:
                undo.terms[self.layers + 1] = self.terms[self.layers + 1]
                continue
            layer, part = divmod(slot, self.stride)
            undo.terms[layer] = self.terms[layer]
            if part == self.stride - 1 and self.hub:
                undo.terms[layer + 1] = self.terms[layer + 1]
        if last is not None and last != self.last_halves():
            undo.terms.update(enumerate(self.terms[: self.layers]))
        undo.moves.reverse()
        return undo

    def place(self, slot: int, device: int) -> None:
        """Put one block somewhere without predicting anything; call `refresh` when all are placed."""
        self._put(slot, device)

    def clear(self) -> None:
        """Take every block off again."""
        for slot in range(len(self.blocks)):
            self._put(slot, UNPLACED)

    def refresh(self) -> None:
        """Predict every layer anew."""
        self.terms = [self.term(layer) for layer in range(len(self.terms))]

    # --- what it costs --------------------------------------------------------------------------------------

    def holder(self, layer: int) -> int:
        """The device that holds x when `layer` begins; the source where others do too."""
        return self.model.source if layer == 0 or not self.hub else self.where[layer * self.stride - 1]

    def term(self, layer: int) -> float:
        """Seconds of one layer of one token; after the last layer, of the way home of x, then of a cut LM head."""
        if layer > self.layers:
            return self.model.vocab(tuple(self.vocab_counts))
        if layer == self.layers:
            return self.model.source_seconds(self.holder(layer), lm_head=False)
        base, model = layer * self.stride, self.model
        heads, shards = tuple(self.counts[layer]), tuple(self.shard_counts[layer])
        if not self.hub:
            return self._together(2 * layer, heads) + self._together(2 * layer + 1, shards)
        middle, end = self.where[base + self.heads], self.where[base + self.stride - 1]
        attention = model.attention(self.holder(layer), middle, heads, self._roots(layer, ATTENTION))
        return attention + model.ffn(middle, end, shards, self._roots(layer, FFN))

    def _together(self, half: int, counts: tuple[int, ...]) -> float:
        """Seconds of a half with an all-to-all exchange; halves are numbered through all layers."""
        layer, which = divmod(half, 2)
        last, source = self.last_halves(), self.model.source
        others = tuple(device for device, end in enumerate(last) if end > half and device != source)
        starts = () if half else tuple(device for device, end in enumerate(last) if end >= 0 and device != source)
        return self.model.all_to_all(which, counts, others, starts, self._roots(layer, which))

    def last_halves(self) -> list[int]:
        """The last half that each device has blocks of, numbered through all layers; -1 for none."""
        found = [-1] * len(self.budgets)
        left = len(found)
        for half in range(2 * self.layers - 1, -1, -1):
            counts = self.shard_counts[half // 2] if half % 2 else self.counts[half // 2]
            for device, count in enumerate(counts):
                if count and found[device] < 0:
                    found[device] = half
                    left -= 1
            if not left:
                break
        return found

    def _roots(self, layer: int, half: int) -> tuple[int, ...] | None:
        """Partial sums that each device sends; None where there are none, or where `placement` will align them."""
        if not self.old or not self.model.halves[half].partial:
            return None
        return tuple(len(roots_of_mask(mask)) for mask in self._leaves[half][layer])

    @property
    def latency(self) -> float:
        """Mean token latency over the interval, without the LM head unless that is cut."""
        return sum(self.terms)

    @property
    def migration(self) -> float:
        """Seconds from prepare to commit of what this draft moves."""
        if not self._paths:
            return 0.0
        delay = max(self._ways.delay_s(path) for path in self._paths)
        busiest = max(
            max(size * rate for size, rate in zip(self._carried, self._ways.seconds_per_byte, strict=True)),
            max(size * rate for size, rate in zip(self._loaded, self._load_s, strict=True)),
        )
        return busiest + delay + MIGRATION_HANDSHAKE_S

    @property
    def cost(self) -> float:
        """Migration delay plus the latency of the interval's tokens, without the LM head unless that is cut."""
        return self.migration + self.model.tokens * self.latency

    # --- what fits ------------------------------------------------------------------------------------------

    def fits(self, device: int) -> bool:
        """Whether a device that receives blocks can hold what it would: double residency and room to grow."""
        budget = self.budgets[device]
        if self.reserved_bytes[device] > budget:
            return False
        return not self.incoming[device] or self.both_bytes[device] <= budget

    def room_for(self, slot: int, device: int) -> bool:
        """Whether a block that is elsewhere in this draft could go to `device`."""
        budget = self.budgets[device]
        if self.reserved_bytes[device] + self.reserved_sizes[slot] > budget:
            return False
        if not self.old or self.old[slot] == device:
            return True
        return self.both_bytes[device] + self.now_sizes[slot] <= budget

    def room(self, device: int) -> int:
        """Bytes that may still come to `device`, counting nothing that leaves it."""
        free = self.budgets[device] - self.reserved_bytes[device]
        return min(free, self.budgets[device] - self.both_bytes[device]) if self.old else free

    def excess(self, device: int) -> int:
        """Bytes by which a device would be over its budget at the interval's last token."""
        return max(0, self.end_bytes[device] - self.budgets[device])

    def overloaded(self) -> list[int]:
        """Devices over their budget at the interval's last token."""
        return [device for device in range(len(self.budgets)) if self.excess(device)]

    def try_shifts(self, moves: Sequence[Shift], below: float = math.inf) -> Undo | None:
        """Apply moves if every receiving device can hold them; returns the undo, or None when nothing changed.

        Moves that would certainly cost `below` or more, whatever the layers they touch take, are not applied either.
        """
        where = self.where
        moves = [move for move in moves if where[move[0]] != move[1]]
        if not moves or not self._would_fit(moves):
            return None
        undo = self._put_all(moves)
        if below < math.inf:
            untouched = sum(seconds for layer, seconds in enumerate(self.terms) if layer not in undo.terms)
            if self.migration + self.model.tokens * untouched >= below:
                self.take_back(undo)
                return None
        for layer in undo.terms:
            self.terms[layer] = self.term(layer)
        return undo

    def _would_fit(self, moves: Sequence[Shift]) -> bool:
        """Whether every receiving device `fits` after these moves of blocks that are elsewhere, each named once."""
        where, old, sizes = self.where, self.old, self.reserved_sizes
        targets = {device for _, device in moves}
        reserved = dict.fromkeys(targets, 0)
        for slot, device in moves:
            reserved[device] += sizes[slot]
            if where[slot] in targets:
                reserved[where[slot]] -= sizes[slot]
        if any(self.reserved_bytes[device] + more > self.budgets[device] for device, more in reserved.items()):
            return False
        if not old:
            return True
        both, incoming = dict.fromkeys(targets, 0), dict.fromkeys(targets, 0)
        for slot, device in moves:
            home, before = old[slot], where[slot]
            if device != home:
                both[device] += self.now_sizes[slot]
                incoming[device] += 1
            if before in targets and before != home:
                both[before] -= self.now_sizes[slot]
                incoming[before] -= 1
        return all(
            not self.incoming[device] + incoming[device] or self.both_bytes[device] + more <= self.budgets[device]
            for device, more in both.items()
        )

    def placement(self, old: Placement | None) -> Placement:
        """The finished placement, one epoch on; `old` itself when nothing moved. A controller may renumber it."""
        if self.old and self.old == self.where:
            assert old is not None
            return old
        names = self.model.names
        where = self.where if self.old else self._aligned()
        devices = {block: names[device] for block, device in zip(self.blocks, where, strict=True)}
        return Placement(devices, self.epoch + (1 if self.old else 0))

    def _aligned(self) -> list[int]:
        """`where` with heads and shards that meet in a sum dealt anew by their counts, so that roots are few."""
        where = list(self.where)
        for layer in range(self.layers):
            starts = (layer * self.stride, layer * self.stride + self.first_shard)
            for start, half, counts in zip(starts, self.model.halves, (self.counts, self.shard_counts), strict=True):
                if half.partial:
                    for device, leaves in enumerate(align(counts[layer])):
                        for leaf in leaves:
                            where[start + leaf] = device
        return where


def decide_on_draft(
    observation: Observation, old: Placement | None, fill: Callable[[Draft], None], who: str, for_work: bool = False
) -> Placement:
    """The placement that `fill` makes of a draft of the present one; `old` itself when it moves nothing.

    Devices without room for a block (`for_work`: other than a sum) are left out, and those that cannot be reached as
    long as the others suffice. Raises Infeasible, naming `who`, where what came of it does not fit.
    """
    able = with_room(observation, old, for_work)
    at_hand = reachable(able, old)
    if at_hand is not able:
        with suppress(Infeasible):
            return refuse_shortages(observation, old, fill_draft(at_hand, old, fill), who)
    return refuse_shortages(observation, old, fill_draft(able, old, fill), who)


def fill_draft(observation: Observation, old: Placement | None, fill: Callable[[Draft], None]) -> Placement:
    """The same with all devices, and without looking whether what came of it fits.

    Tried with room for caches to grow to the run's end first; where that is Infeasible, to the interval's end.
    """
    model = cost_model(observation)
    try:
        draft = Draft(model, old, old)
        fill(draft)
    except Infeasible:
        draft = Draft(model, old, old, reserve=False)
        fill(draft)
    return draft.placement(old)
