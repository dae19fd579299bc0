"""A draft seen in whole layers: what policies that never split a layer need to know.

All layers of a model are alike. So a layer is its size, the seconds it takes on each device with x coming from each
other one, and the seconds of x's way home at the end. The seconds come from the cost model, as for any placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import NamedTuple

from testbed.placement.cost.memory import Infeasible, Shortage, nothing_fits
from testbed.placement.cost.model import BULK_WIRE_RATIO, cached_length, moved_bytes
from testbed.placement.latency import STALLED_RATE
from testbed.placement.local.draft import UNPLACED, Draft, Shift
from testbed.placement.observation import Hop, Path
from testbed.units import format_bytes
from testbed.wire import OUTAGE_BPS


class LayerMigrations(NamedTuple):
    """What it takes to move one whole layer between two devices.

    A resource is a device's storage, or one direction of a link. `unit_s` has the seconds that one layer keeps each
    resource busy. `of[i, j]` has the resources that a move from i to j needs, and the index in `delays_s` of its delay.
    """

    unit_s: list[float]
    delays_s: list[float]
    of: dict[tuple[int, int], tuple[tuple[int, ...], int]]


class WholeLayers:
    """A draft seen in whole layers.

    `step[i][j]` has the seconds of one layer on device j with x coming from device i, as a mean over the interval.
    `home[j]` has the seconds outside the layers when the last one is on j. `room[j]` is how many layers j can hold in
    the end, and `incoming[j]` how many can come to it now, while its present blocks are still there.
    """

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.count = draft.layers
        first = slice(0, draft.slots.per_layer)
        self.grown_bytes = sum(draft.reserved_sizes[first])
        self.now_bytes = sum(draft.now_sizes[first])
        self.old = [self._present(layer) for layer in range(self.count)] if draft.old else [UNPLACED] * self.count
        end_bytes, held = sum(draft.end_sizes[first]), [self.old.count(j) for j in draft.devices]
        self.room, self.incoming = [], []
        self.lm_head = self._lm_head()
        for j in draft.devices:
            free = draft.budgets[j] - draft.pinned_bytes[j]
            free -= sum(draft.reserved_sizes[slot] for slot, device in self.lm_head if device == j)
            grown, end = max(0, free // self.grown_bytes), max(0, free // end_bytes)
            keeps = grown < held[j] <= end  # it has more layers than it would be given now, and they may stay
            self.room.append(held[j] if keeps else grown)
            spare = (draft.budgets[j] - draft.double_bytes[j]) // self.now_bytes if draft.old else self.count
            self.incoming.append(0 if keeps else max(0, min(spare, self.count)))

    @cached_property
    def step(self) -> list[list[float]]:
        """Seconds of one layer, by the device that has x and the device that has the layer."""
        return [[self._step(i, j) for j in self.draft.devices] for i in self.draft.devices]

    @cached_property
    def home(self) -> list[float]:
        """Seconds outside the layers, by the device that has the last layer."""
        return [self.draft.model.source_seconds(j, lm_head=False) for j in self.draft.devices]

    def _step(self, holder: int, device: int) -> float:
        model, slots = self.draft.model, self.draft.slots
        heads, shards = (
            tuple(number * (j == device) for j in self.draft.devices)
            for number in (slots.heads_per_layer, slots.shards_per_layer)
        )
        return model.attention(holder, device, heads) + model.ffn(device, device, shards)

    def _lm_head(self) -> list[Shift]:
        """Where the shards of the LM head are: at first at the source or, if it is full, where most memory is free."""
        draft = self.draft
        if draft.old:
            return [(slot, draft.old[slot]) for slot in draft.slots.vocab]
        free = [budget - pinned for budget, pinned in zip(draft.budgets, draft.pinned_bytes, strict=True)]
        found: list[Shift] = []
        for slot in draft.slots.vocab:
            size, source = draft.reserved_sizes[slot], draft.model.source
            device = source if free[source] >= size else max(draft.devices, key=lambda j: (free[j], -j))
            free[device] -= size
            found.append((slot, device))
        return found

    def _present(self, layer: int) -> int:
        """The device that has all of a layer now, else UNPLACED."""
        held = {self.draft.old[slot] for slot in self.draft.slots.of_layer(layer)}
        return held.pop() if len(held) == 1 else UNPLACED

    def migrations(self) -> LayerMigrations:
        """What moving one whole layer takes, for every pair of devices. Resource j is the storage of device j."""
        draft, observation = self.draft, self.draft.observation
        cached = cached_length(observation)
        moved = [moved_bytes(observation, block, cached) for block in draft.blocks[: draft.slots.per_layer]]
        sent, loaded = sum(sent for sent, _ in moved), sum(loaded for _, loaded in moved)
        unit_s = [loaded / max(view.storage_Bps, STALLED_RATE) for view in observation.devices]
        number: dict[Hop, int] = {}
        paths: dict[tuple[int, int], Path] = {}
        for i, j in product(sorted({*self.old} - {UNPLACED}), draft.devices):
            if i != j:
                paths[i, j] = observation.path(draft.model.names[i], draft.model.names[j])
                for leg in paths[i, j]:
                    if leg.hop not in number:
                        number[leg.hop] = len(unit_s)
                        unit_s.append(sent * BULK_WIRE_RATIO * 8 / max(leg.rate_bps, OUTAGE_BPS))
        delay = {pair: sum(leg.delay_s for leg in path) for pair, path in paths.items()}
        delays = sorted({*delay.values()})
        of = {
            (i, j): ((j, *(number[leg.hop] for leg in path)), 1 + delays.index(delay[i, j]))
            for (i, j), path in paths.items()
        }
        of |= {(UNPLACED, j): ((j,), 1) for j in draft.devices}
        return LayerMigrations(unit_s, [0.0, *(delays or [0.0])], of)

    def put(self, devices: Sequence[int]) -> None:
        """Make the draft one with layer l on `devices[l]`, and the LM head's shards in their place."""
        draft = self.draft
        shifts = [(slot, device) for layer, device in enumerate(devices) for slot in draft.slots.of_layer(layer)]
        shifts += self.lm_head
        if draft.old:
            draft.apply([shift for shift in shifts if draft.where[shift[0]] != shift[1]])
            return
        for slot, device in shifts:
            draft.place(slot, device)
        draft.refresh()

    def refuse(self, who: str, what: str = "") -> Infeasible:
        """What to raise where no assignment of whole layers fits: it names the device with the most space."""
        draft = self.draft
        device = max(draft.devices, key=lambda j: (draft.budgets[j] - draft.pinned_bytes[j], -j))
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
