"""Layers as wholes: what policies that never split a layer need to know of it.

All layers of a model are alike, so a layer is its size, its time on each device after x has come from another, and
the way home at the end. Times are those of the cost model's half-layers, as for any other placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import NamedTuple

from testbed.placement.cost.latency import OUTAGE_BPS, STALLED_RATE
from testbed.placement.cost.memory import Infeasible, Shortage, nothing_fits
from testbed.placement.cost.model import BULK_WIRE_RATIO, cached_length, moved_bytes
from testbed.placement.local.draft import UNPLACED, Draft, Shift
from testbed.placement.observation import Hop, Path
from testbed.units import format_bytes


class LayerMigrations(NamedTuple):
    """Moving whole layers: seconds that one layer keeps each resource busy, and which resources it needs from i to j.

    A resource is a device's storage, or one direction of a link. `of[i, j]` has resources, and which of `delays_s` is
    the delay of the path.
    """

    unit_s: list[float]
    delays_s: list[float]
    of: dict[tuple[int, int], tuple[tuple[int, ...], int]]


class WholeLayers:
    """A draft seen in whole layers.

    `step[i][j]`: seconds of one layer on j when x is on i (its way there included), mean over the interval;
    `home[j]`: seconds around the layers when the last one is on j. `room[j]`: layers that j can hold in the end;
    `incoming[j]`: layers that may come to j now, its present blocks still being there.
    """

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.count = draft.layers
        stride, devices = draft.stride, range(len(draft.budgets))
        self.grown_bytes = sum(draft.reserved_sizes[:stride])
        self.now_bytes = sum(draft.now_sizes[:stride])
        self.old = [self._whole(layer) for layer in range(self.count)] if draft.old else [UNPLACED] * self.count
        end_bytes, held = sum(draft.end_sizes[:stride]), [self.old.count(j) for j in devices]
        self.room, self.incoming = [], []
        self.rest = self._rest()
        for j in devices:
            free = draft.budgets[j] - draft.pinned_bytes[j]
            free -= sum(draft.reserved_sizes[slot] for slot, device in self.rest if device == j)
            grown, end = max(0, free // self.grown_bytes), max(0, free // end_bytes)
            keeps = grown < held[j] <= end  # more than it would be given now, and they may stay
            self.room.append(held[j] if keeps else grown)
            spare = (draft.budgets[j] - draft.both_bytes[j]) // self.now_bytes if draft.old else self.count
            self.incoming.append(0 if keeps else max(0, min(spare, self.count)))

    @cached_property
    def step(self) -> list[list[float]]:
        """Seconds of one layer, by the device that has x and the one that has the layer."""
        devices = range(len(self.draft.budgets))
        return [[self._step(i, j) for j in devices] for i in devices]

    @cached_property
    def home(self) -> list[float]:
        """Seconds around the layers, by the device that has the last one."""
        return [self.draft.model.source_seconds(j, lm_head=False) for j in range(len(self.draft.budgets))]

    def _step(self, holder: int, device: int) -> float:
        draft = self.draft
        heads, shards = (
            [number * (j == device) for j in range(len(draft.budgets))] for number in (draft.heads, draft.shards)
        )
        return draft.model.attention(holder, device, tuple(heads)) + draft.model.ffn(device, device, tuple(shards))

    def _rest(self) -> list[Shift]:
        """Shards of the LM head: where they are, at first at the source and what has no room there where most is."""
        draft = self.draft
        slots = range(draft.layer_slots, len(draft.blocks))
        if draft.old:
            return [(slot, draft.old[slot]) for slot in slots]
        free = [budget - pinned for budget, pinned in zip(draft.budgets, draft.pinned_bytes, strict=True)]
        found: list[Shift] = []
        for slot in slots:
            size, source = draft.reserved_sizes[slot], draft.model.source
            device = source if free[source] >= size else max(range(len(free)), key=lambda j: (free[j], -j))
            free[device] -= size
            found.append((slot, device))
        return found

    def _whole(self, layer: int) -> int:
        """The device that has all of a layer now, else UNPLACED."""
        stride = self.draft.stride
        held = set(self.draft.old[layer * stride : (layer + 1) * stride])
        return held.pop() if len(held) == 1 else UNPLACED

    def migrations(self) -> LayerMigrations:
        """What moving one whole layer takes, for every pair of devices; resource j is what device j has to load."""
        draft, observation = self.draft, self.draft.observation
        cached = cached_length(observation)
        moved = [moved_bytes(observation, block, cached) for block in draft.blocks[: draft.stride]]
        sent, loaded = sum(sent for sent, _ in moved), sum(loaded for _, loaded in moved)
        unit_s = [loaded / max(view.storage_Bps, STALLED_RATE) for view in observation.devices]
        number: dict[Hop, int] = {}
        legs: dict[tuple[int, int], Path] = {}
        for i, j in product(sorted({*self.old} - {UNPLACED}), range(len(unit_s))):
            if i != j:
                legs[i, j] = observation.path(draft.model.names[i], draft.model.names[j])
                for leg in legs[i, j]:
                    if leg.hop not in number:
                        number[leg.hop] = len(unit_s)
                        unit_s.append(sent * BULK_WIRE_RATIO * 8 / max(leg.rate_bps, OUTAGE_BPS))
        delay = {pair: sum(leg.delay_s for leg in path) for pair, path in legs.items()}
        delays = sorted({*delay.values()})
        of = {
            (i, j): ((j, *(number[leg.hop] for leg in path)), 1 + delays.index(delay[i, j]))
            for (i, j), path in legs.items()
        }
        of |= {(UNPLACED, j): ((j,), 1) for j in range(len(self.home))}
        return LayerMigrations(unit_s, [0.0, *(delays or [0.0])], of)

    def slots(self, layer: int) -> range:
        """The blocks of a layer."""
        return range(layer * self.draft.stride, (layer + 1) * self.draft.stride)

    def moves(self, devices: Sequence[int]) -> list[Shift]:
        """The moves that put layer l on devices[l], and what belongs to no layer in its place."""
        return [(slot, device) for layer, device in enumerate(devices) for slot in self.slots(layer)] + self.rest

    def put(self, devices: Sequence[int]) -> None:
        """Make the draft this."""
        if self.draft.old:
            self.draft.apply([move for move in self.moves(devices) if self.draft.where[move[0]] != move[1]])
            return
        for slot, device in self.moves(devices):
            self.draft.place(slot, device)
        self.draft.refresh()

    def refuse(self, who: str, what: str = "") -> Infeasible:
        """What to raise where no assignment of whole layers fits: names the device with the most room."""
        draft = self.draft
        device = max(range(len(draft.budgets)), key=lambda j: (draft.budgets[j] - draft.pinned_bytes[j], -j))
        need = draft.pinned_bytes[device] + self.grown_bytes
        shortage = Shortage(draft.model.names[device], need, draft.budgets[device], "whole layers do not fit")
        done = draft.observation.tokens_done
        proof = (
            nothing_fits(draft.observation)
            or what
            or (
                f"{self.count} whole layers of {format_bytes(self.grown_bytes)} do not fit; the devices have room for "
                f"{sum(self.room)}"
                + (f" and may take {sum(self.incoming)} while the old ones are still there" if draft.old else "")
            )
        )
        return Infeasible(f"{who} found no placement that fits after {done} tokens: {proof}", shortage)
