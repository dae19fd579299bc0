"""A placement in the making, whose predicted cost and memory are kept up to date with every change.

Policies that build or improve a placement step by step work on a `Draft` and return the `Placement` it ends as. In a
draft a block is its slot (`slots.py`) and a device is its index. The figures are those of `cost.model` and
`cost.memory`; only what a change touches is computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from testbed.placement.blocks import ATTENTION, FFN, Placement, resident_bytes
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import CostModel, cached_length, migration_around_s, moved_bytes
from testbed.placement.cost.paths import NumberedPaths
from testbed.placement.latency import STALLED_RATE
from testbed.placement.local.slots import slots_of
from testbed.placement.tree import align, roots_of_mask

UNPLACED = -1
Shift = tuple[int, int]  # (slot, device): put this block on that device


class Undo(NamedTuple):
    """What takes shifts back: the opposite shifts, last one first, and the latency terms as they were."""

    shifts: list[Shift]
    terms: dict[int, float]


class Draft:
    """Where each block would be after this decision, seen from where it is now.

    `where[slot]` is the device of a block, or UNPLACED; `old[slot]` is its present device, and `old` is empty before
    the first placement. `end_bytes[device]` is what a device would hold at the interval's last token.
    `reserved_bytes[device]` is what it would hold later, when caches have grown as far as memory is kept free for: with
    `reserve` to the run's last token, so that growing caches do not push blocks about, else to the interval's.
    """

    def __init__(self, model: CostModel, placed: Placement | None, old: Placement | None, reserve: bool = True) -> None:
        observation = model.observation
        self.model = model
        self.observation = observation
        self.slots = slots_of(observation.shape, observation.partition)
        self.blocks = self.slots.blocks
        self.layers = self.slots.layers
        self.devices = range(len(observation.devices))
        self.budgets = [view.available_bytes for view in observation.devices]
        self.end_sizes = self._sizes(observation.final_length)
        grown = observation.final_length
        if reserve:
            grown = max(grown, observation.prompt_tokens + observation.tokens_max - 1)
        self.reserved_sizes = self._sizes(grown)
        self.now_sizes = self._sizes(observation.length)
        cached = cached_length(observation)
        moved = [moved_bytes(observation, block, cached) for block in self.slots.examples]
        self.moved = [moved[kind] for kind in self.slots.kind_of]  # (bytes sent, bytes loaded) of each block
        devices = len(self.budgets)
        self.old = [model.index[old.devices[block]] for block in self.blocks] if old is not None else []
        self.epoch = old.epoch if old is not None else 0
        pinned = list(device_needs(observation, None, 0).values())
        self.pinned_bytes = tuple(pinned)
        self.end_bytes = list(pinned)
        self.reserved_bytes = list(pinned)
        self.double_bytes = list(pinned)  # old blocks and incoming ones together, at the present length
        for slot, device in enumerate(self.old):
            self.double_bytes[device] += self.now_sizes[slot]
        self.incoming = [0] * devices  # number of incoming blocks
        self._loaded = [0] * devices
        self._load_s = [1 / max(view.storage_Bps, STALLED_RATE) for view in observation.devices]
        self._network = NumberedPaths(observation)
        self._carried = [0] * len(self._network.seconds_per_byte)
        self._used_paths: dict[tuple[int, int], int] = {}  # (from, to) -> number of blocks that move so
        self.where = [UNPLACED] * len(self.blocks)
        self.head_counts = [[0] * devices for _ in range(self.layers)]  # [layer][device]
        self.shard_counts = [[0] * devices for _ in range(self.layers)]
        self.vocab_counts = [0] * devices
        self._leaves = [[[0] * devices for _ in range(self.layers)] for _ in range(2)]  # [half][layer][device], as bits
        self._tallies = [None if leaf is None else self._tally(*leaf) for leaf in self.slots.leaves]
        self._tallies += [(self.vocab_counts, [0] * devices, 1) for _ in self.slots.vocab]
        layers, slots = range(self.layers), self.slots
        self._targets = [(slots.attention_target(layer), slots.ffn_target(layer)) for layer in layers if slots.hub]
        # Seconds of each layer, then of x's way home, then of the LM head where it is cut.
        self.terms = [0.0] * (self.layers + 1 + (len(self.slots.vocab) > 0))
        if placed is not None:
            for slot, block in enumerate(self.blocks):
                self._put(slot, model.index[placed.devices[block]])
            self.refresh()

    def _sizes(self, length: int) -> list[int]:
        """Bytes of each block when caches have this length; blocks of one kind are alike."""
        seen = self.observation
        sizes = [resident_bytes(seen.shape, block, length, seen.partition) for block in self.slots.examples]
        return [sizes[kind] for kind in self.slots.kind_of]

    # --- which block is which ---------------------------------------------------------------------------------

    def half_of(self, slot: int) -> tuple[int, int]:
        """(layer, ATTENTION or FFN) of a block that belongs to a layer."""
        return self.slots.half_of(slot)

    def heads(self, layer: int) -> range:
        """The slots of a layer's heads."""
        return self.slots.heads(layer)

    def shards(self, layer: int) -> range:
        """The slots of a layer's FFN shards; none where the FFN is whole."""
        return self.slots.shards(layer)

    def kind(self, slot: int) -> int:
        """The block's kind as its number in `slots.kinds`; a head's is 0."""
        return self.slots.kind_of[slot]

    def size_of_kind(self, kind: int) -> int:
        """Bytes of one block of a kind, with its cache grown as far as memory is kept free for."""
        return self.reserved_sizes[self.slots.kind_of.index(kind)]

    def end_size_of_kind(self, kind: int) -> int:
        """Bytes of one block of a kind at the interval's last token."""
        return self.end_sizes[self.slots.kind_of.index(kind)]

    def _tally(self, layer: int, half: int, leaf: int) -> tuple[list[int], list[int], int]:
        """Where a head or shard is counted: the counts and leaves by device, and its own leaf as a bit."""
        counts = self.shard_counts if half == FFN else self.head_counts
        return counts[layer], self._leaves[half][layer], leaf

    # --- changing it --------------------------------------------------------------------------------------------

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
        """Add a block's migration to the loads of links and storage, or take it off again."""
        sent, loaded = self.moved[slot]
        self.double_bytes[target] += sign * self.now_sizes[slot]
        self.incoming[target] += sign
        self._loaded[target] += sign * loaded
        path = (source, target)
        if sent:
            for link in self._network.links(path):
                self._carried[link] += sign * sent
        left = self._used_paths.get(path, 0) + sign
        if left:
            self._used_paths[path] = left
        else:
            del self._used_paths[path]

    def place(self, slot: int, device: int) -> None:
        """Put one block somewhere without a prediction; call `refresh` when every block is placed."""
        self._put(slot, device)

    def clear(self) -> None:
        """Take every block off again."""
        for slot in range(len(self.blocks)):
            self._put(slot, UNPLACED)

    def refresh(self) -> None:
        """Predict every layer anew."""
        self.terms = [self.term(layer) for layer in range(len(self.terms))]

    def apply(self, shifts: Iterable[Shift]) -> Undo:
        """Carry out shifts; returns what `take_back` needs. Every block must be placed."""
        undo = self._put_all(shifts)
        for layer in undo.terms:
            self.terms[layer] = self.term(layer)
        return undo

    def become(self, where: Sequence[int]) -> Undo:
        """Put every block on the device that `where` has for its slot. Every block must be placed."""
        return self.apply([(slot, device) for slot, device in enumerate(where) if self.where[slot] != device])

    def take_back(self, undo: Undo) -> None:
        """Undo the latest shifts that have not been taken back."""
        for slot, device in undo.shifts:
            self._put(slot, device)
        for layer, seconds in undo.terms.items():
            self.terms[layer] = seconds

    def _put_all(self, shifts: Iterable[Shift]) -> Undo:
        """Carry out shifts without predictions; the `Undo` has the terms that no longer hold."""
        undo, slots = Undo([], {}), self.slots
        in_layers, per_layer, vocab_term = slots.vocab.start, slots.per_layer, self.layers + 1
        last = None if slots.hub else self.last_halves()
        for slot, device in shifts:
            undo.shifts.append((slot, self.where[slot]))
            self._put(slot, device)
            if slot >= in_layers:
                undo.terms[vocab_term] = self.terms[vocab_term]
                continue
            layer, place = divmod(slot, per_layer)
            undo.terms[layer] = self.terms[layer]
            if place == per_layer - 1 and slots.hub:
                undo.terms[layer + 1] = self.terms[layer + 1]
        if last is not None and last != self.last_halves():
            undo.terms.update(enumerate(self.terms[: self.layers]))
        undo.shifts.reverse()
        return undo

    def try_shifts(self, shifts: Sequence[Shift], below: float = math.inf) -> Undo | None:
        """Apply shifts if every receiving device can hold them; returns the undo, or None when nothing changed.

        Shifts are not applied either if they would cost `below` or more however quick the layers they touch become.
        """
        where = self.where
        shifts = [shift for shift in shifts if where[shift[0]] != shift[1]]
        if not shifts or not self._would_fit(shifts):
            return None
        undo = self._put_all(shifts)
        if below < math.inf:
            untouched = sum(seconds for layer, seconds in enumerate(self.terms) if layer not in undo.terms)
            if self.migration + self.model.tokens * untouched >= below:
                self.take_back(undo)
                return None
        for layer in undo.terms:
            self.terms[layer] = self.term(layer)
        return undo

    # --- what it costs --------------------------------------------------------------------------------------

    def holder(self, layer: int) -> int:
        """The device that holds x when `layer` begins; without a hub the source, where others hold it too."""
        return self.where[self._targets[layer - 1][1]] if layer and self._targets else self.model.source

    def term(self, layer: int) -> float:
        """Seconds of one layer of one token; after the last layer, of x's way home, then of a cut LM head."""
        if layer > self.layers:
            return self.model.vocab(tuple(self.vocab_counts))
        if layer == self.layers:
            return self.model.source_seconds(self.holder(layer), lm_head=False)
        model, heads, shards = self.model, tuple(self.head_counts[layer]), tuple(self.shard_counts[layer])
        if not self._targets:
            return self._all_to_all(2 * layer, heads) + self._all_to_all(2 * layer + 1, shards)
        attention_target, ffn_target = self._targets[layer]
        middle, end = self.where[attention_target], self.where[ffn_target]
        attention = model.attention(self.holder(layer), middle, heads, self._roots(layer, ATTENTION))
        return attention + model.ffn(middle, end, shards, self._roots(layer, FFN))

    def _all_to_all(self, number: int, counts: tuple[int, ...]) -> float:
        """Seconds of a half with an all-to-all exchange; halves are numbered through all layers."""
        layer, half = divmod(number, 2)
        last, source = self.last_halves(), self.model.source
        others = tuple(device for device, end in enumerate(last) if end > number and device != source)
        starts = () if number else tuple(device for device, end in enumerate(last) if end >= 0 and device != source)
        return self.model.all_to_all(half, counts, others, starts, self._roots(layer, half))

    def last_halves(self) -> list[int]:
        """The last half that each device has blocks of, numbered through all layers; -1 for none."""
        found = [-1] * len(self.budgets)
        left = len(found)
        for half in range(2 * self.layers - 1, -1, -1):
            counts = self.shard_counts[half // 2] if half % 2 else self.head_counts[half // 2]
            for device, count in enumerate(counts):
                if count and found[device] < 0:
                    found[device] = half
                    left -= 1
            if not left:
                break
        return found

    def _roots(self, layer: int, half: int) -> tuple[int, ...] | None:
        """How many partial sums each device sends; None where there are none, or where `placement` will align them."""
        if not self.old or not self.model.halves[half].partial:
            return None
        return tuple(len(roots_of_mask(mask)) for mask in self._leaves[half][layer])

    @property
    def latency(self) -> float:
        """Mean token latency over the interval in seconds. A whole LM head is left out, a cut one is counted."""
        return sum(self.terms)

    @property
    def migration(self) -> float:
        """Seconds from prepare to commit of the blocks that would move."""
        if not self._used_paths:
            return 0.0
        delay = max(self._network.delay_s(path) for path in self._used_paths)
        busiest = max(
            max(size * rate for size, rate in zip(self._carried, self._network.seconds_per_byte, strict=True)),
            max(size * rate for size, rate in zip(self._loaded, self._load_s, strict=True)),
        )
        return busiest + migration_around_s(self.observation, delay)

    @property
    def cost(self) -> float:
        """Seconds of the interval: `migration`, and `latency` once for each token."""
        return self.migration + self.model.tokens * self.latency

    # --- what fits ------------------------------------------------------------------------------------------

    def fits(self, device: int) -> bool:
        """Whether a device can hold its blocks as they grow, and incoming ones beside its old ones."""
        budget = self.budgets[device]
        if self.reserved_bytes[device] > budget:
            return False
        return not self.incoming[device] or self.double_bytes[device] <= budget

    def room_for(self, slot: int, device: int) -> bool:
        """Whether a block that is elsewhere in this draft could go to `device`."""
        budget = self.budgets[device]
        if self.reserved_bytes[device] + self.reserved_sizes[slot] > budget:
            return False
        if not self.old or self.old[slot] == device:
            return True
        return self.double_bytes[device] + self.now_sizes[slot] <= budget

    def room(self, device: int) -> int:
        """Bytes that may still come to `device` if nothing leaves it."""
        free = self.budgets[device] - self.reserved_bytes[device]
        return min(free, self.budgets[device] - self.double_bytes[device]) if self.old else free

    def excess(self, device: int) -> int:
        """Bytes by which a device would be over its budget at the interval's last token."""
        return max(0, self.end_bytes[device] - self.budgets[device])

    def overloaded(self) -> list[int]:
        """The devices over their budget at the interval's last token."""
        return [device for device in self.devices if self.excess(device)]

    def _would_fit(self, shifts: Sequence[Shift]) -> bool:
        """Whether every receiving device `fits` after these shifts of blocks that are elsewhere, each named once."""
        where, old, sizes = self.where, self.old, self.reserved_sizes
        targets = {device for _, device in shifts}
        reserved = dict.fromkeys(targets, 0)
        for slot, device in shifts:
            reserved[device] += sizes[slot]
            if where[slot] in targets:
                reserved[where[slot]] -= sizes[slot]
        if any(self.reserved_bytes[device] + more > self.budgets[device] for device, more in reserved.items()):
            return False
        if not old:
            return True
        double, incoming = dict.fromkeys(targets, 0), dict.fromkeys(targets, 0)
        for slot, device in shifts:
            home, before = old[slot], where[slot]
            if device != home:
                double[device] += self.now_sizes[slot]
                incoming[device] += 1
            if before in targets and before != home:
                double[before] -= self.now_sizes[slot]
                incoming[before] -= 1
        return all(
            not self.incoming[device] + incoming[device] or self.double_bytes[device] + more <= self.budgets[device]
            for device, more in double.items()
        )

    # --- what comes of it -----------------------------------------------------------------------------------

    def placement(self, old: Placement | None) -> Placement:
        """The finished placement, one epoch on; `old` itself when nothing moved. The controller may renumber it."""
        if self.old and self.old == self.where:
            assert old is not None
            return old
        names = self.model.names
        where = self.where if self.old else self._aligned()
        devices = {block: names[device] for block, device in zip(self.blocks, where, strict=True)}
        return Placement(devices, self.epoch + (1 if self.old else 0))

    def _aligned(self) -> list[int]:
        """`where` with the same numbers of heads and shards on each device, dealt so that roots are as few as can be.

        Only halves that end in partial sums are dealt anew.
        """
        where, attention, ffn = list(self.where), self.model.halves[ATTENTION], self.model.halves[FFN]
        for layer in range(self.layers):
            for half, parts, counts in (
                (attention, self.heads(layer), self.head_counts[layer]),
                (ffn, self.shards(layer), self.shard_counts[layer]),
            ):
                if half.partial:
                    for device, leaves in enumerate(align(counts)):
                        for leaf in leaves:
                            where[parts[leaf]] = device
        return where
