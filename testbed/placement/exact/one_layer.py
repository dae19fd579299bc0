"""The optimum under `cost: paper`, by enumeration, of one decision and of a whole run.

There is one layer, and its heads are alike. So a placement is the number of heads on each device, proj's device and the
FFN's device, and a change moves as few heads as it can. All vectors of counts are looked at for every pair of devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from testbed.errors import ConfigError
from testbed.placement.array_types import Flags, Floats, Ints
from testbed.placement.blocks import Block, Placement, resident_bytes
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import bulk_ratio, cached_length, cost_model, moved_bytes
from testbed.placement.exact.limits import COUNT_VECTORS
from testbed.placement.exact.options import count_vectors
from testbed.placement.latency import STALLED_RATE
from testbed.placement.observation import Observation
from testbed.placement.plan import result_payload, x_payload
from testbed.wire import OUTAGE_BPS

PROJ, FFN = Block("proj", 0), Block("ffn", 0)
KINDS = (Block("head", 0, 0), PROJ, FFN)  # one of each kind
AMONG_EQUALS_S = 1e-12  # a smaller gain is rounding


@dataclass(frozen=True)
class States:
    """Placements: heads on each device (states, devices), and the devices of proj and FFN (states,)."""

    counts: Ints
    proj: Ints
    ffn: Ints

    def __len__(self) -> int:
        return len(self.proj)

    def take(self, chosen: Ints | Flags) -> States:
        """Some of them."""
        return States(self.counts[chosen], self.proj[chosen], self.ffn[chosen])


class OneLayer:
    """One observation under `cost: paper`, as arrays.

    Raises ConfigError for a network with routes, and for more vectors of counts than can be looked at.
    """

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        shape = observation.shape
        self.heads, self.devices = shape.kv_heads, len(observation.devices)
        if observation.routes is not None:
            raise ConfigError(
                "policy exact knows star topologies only, and this network has routes or a shared medium: "
                "use another policy"
            )
        if _vectors(self.heads, self.devices) > COUNT_VECTORS:
            raise ConfigError(
                f"policy exact looks at no more than {COUNT_VECTORS} ways to divide heads under cost: paper, and "
                f"{self.devices} devices with {self.heads} heads have more: use fewer devices"
            )
        self.model = cost_model(observation)
        self.counts = count_vectors(self.heads, self.devices)
        budgets = np.array([view.available_bytes for view in observation.devices], np.int64)
        pinned = np.array(list(device_needs(observation, None, 0).values()), np.int64)
        self.room = budgets - pinned
        self.end = [resident_bytes(shape, block, observation.final_length, observation.partition) for block in KINDS]
        self.now = [resident_bytes(shape, block, observation.length, observation.partition) for block in KINDS]
        self.moved = [moved_bytes(observation, block, cached_length(observation)) for block in KINDS]

    # --- seconds of a token -------------------------------------------------------------------------------------

    def attention(self, counts: Ints, proj: int, length: int) -> Floats:
        """Seconds until proj's device has all results, for each row of counts."""
        model, shape = self.model, self.observation.shape
        each = model.seconds("head", length)
        table = np.zeros((self.heads + 1, self.devices))
        for device in range(self.devices):
            comes = model.transfer(model.source, device, x_payload(shape))
            for heads in range(1, self.heads + 1):
                goes = model.transfer(device, proj, result_payload(shape, heads))
                table[heads, device] = comes + heads * each[device] + goes
        return np.asarray(table[counts, np.arange(self.devices)].max(1))

    @cached_property
    def rest(self) -> Floats:
        """Seconds of proj, the way to the FFN, and the FFN: (proj's device, FFN's device)."""
        model, way = self.model, x_payload(self.observation.shape)
        proj, ffn = model.seconds("proj", 0), model.seconds("ffn", 0)
        return np.array(
            [[proj[p] + model.transfer(p, f, way) + ffn[f] for f in range(self.devices)] for p in range(self.devices)]
        )

    def fits(self, counts: Ints, proj: int, ffn: int) -> Flags:
        """Which rows of counts fit at the interval's last token beside proj and FFN on these devices."""
        left = self.room.copy()
        left[proj] -= self.end[1]
        left[ffn] -= self.end[2]
        if (left < 0).any():
            return np.zeros(len(counts), bool)
        if (left >= self.heads * self.end[0]).all():
            return np.ones(len(counts), bool)
        return np.asarray((counts <= left // self.end[0]).all(1))

    def tokens_s(self, lengths: tuple[int, ...]) -> Iterator[tuple[int, int, Floats]]:
        """(proj's device, FFN's device, seconds of tokens of these lengths for each vector of counts); inf: no fit."""
        for proj in range(self.devices):
            attention = np.zeros(len(self.counts))
            for length in lengths:
                attention += self.attention(self.counts, proj, length)
            for ffn in range(self.devices):
                total = attention + len(lengths) * self.rest[proj, ffn]
                yield proj, ffn, np.where(self.fits(self.counts, proj, ffn), total, np.inf)

    def costs(self, states: States, lengths: tuple[int, ...]) -> Floats:
        """Seconds of tokens of these lengths for some placements; infinite where they do not fit."""
        found = np.zeros(len(states))
        for proj, ffn in sorted(set(zip(states.proj.tolist(), states.ffn.tolist(), strict=True))):
            rows = (states.proj == proj) & (states.ffn == ffn)
            counts = states.counts[rows]
            total = np.full(len(counts), len(lengths) * self.rest[proj, ffn])
            for length in lengths:
                total += self.attention(counts, proj, length)
            found[rows] = np.where(self.fits(counts, proj, ffn), total, np.inf)
        return found

    # --- moving -------------------------------------------------------------------------------------------------

    def moving_s(self, old: States, new: States) -> Floats:
        """Seconds to move from each old placement to the new one of the same row, or from the only old one.

        They are infinite where double residency forbids it.
        """
        seen, devices = self.observation, np.arange(self.devices)
        parts = (
            (old.counts, new.counts),
            (old.proj[:, None] == devices, new.proj[:, None] == devices),
            (old.ffn[:, None] == devices, new.ffn[:, None] == devices),
        )
        held = coming = 0
        sent = received = loaded = 0.0
        for now, (moved, load), (before, after) in zip(self.now, self.moved, parts, strict=True):
            change = after.astype(np.int64) - before
            arrives, leaves = np.maximum(change, 0), np.maximum(-change, 0)
            held, coming = held + before * now, coming + arrives * now
            sent, received, loaded = sent + leaves * moved, received + arrives * moved, loaded + arrives * load
        links = [seen.links[view.name] for view in seen.devices]
        ratio = bulk_ratio(seen) * 8
        up = ratio / np.array([max(link.up_bps, OUTAGE_BPS) for link in links])
        down = ratio / np.array([max(link.down_bps, OUTAGE_BPS) for link in links])
        storage = 1 / np.array([max(view.storage_Bps, STALLED_RATE) for view in seen.devices])
        seconds = np.maximum(np.maximum(sent * up, received * down), loaded * storage).max(1)
        fits = ((coming == 0) | (held + coming <= self.room)).all(1)
        return np.where(fits, seconds, np.inf)

    # --- placements ---------------------------------------------------------------------------------------------

    def state(self, placement: Placement) -> States:
        """A placement as the only one of some states."""
        index, counts = self.model.index, np.zeros((1, self.devices), np.int64)
        for block, device in placement.devices.items():
            counts[0, index[device]] += block.kind == "head"
        one = [np.array([index[placement.devices[block]]], np.int64) for block in (PROJ, FFN)]
        return States(counts, *one)

    def placement(self, state: States, old: Placement | None) -> Placement:
        """The first of some states as a placement in which as few heads as possible have moved."""
        names, wanted = self.model.names, state.counts[0].tolist()
        blocks = [Block("head", 0, number) for number in range(self.heads)]
        devices: dict[Block, str] = {}
        for block in blocks if old is not None else ():
            at = self.model.index[old.devices[block]]  # type: ignore[union-attr]
            if wanted[at]:
                wanted[at] -= 1
                devices[block] = names[at]
        free = iter([name for name, count in zip(names, wanted, strict=True) for _ in range(count)])
        devices = {block: devices.get(block) or next(free) for block in blocks}
        devices |= {PROJ: names[int(state.proj[0])], FFN: names[int(state.ffn[0])]}
        if old is not None and devices == dict(old.devices):
            return old
        return Placement(devices, 0 if old is None else old.epoch + 1)


def one_layer_optimum(observation: Observation, old: Placement | None) -> tuple[Placement | None, float]:
    """(the cheapest placement for the coming interval, its seconds with migration), or (None, inf) if none fits.

    Each token counts as the mean of the first and the last, as in `interval_cost`. The present placement stays unless
    another is cheaper.
    """
    layer = OneLayer(observation)
    before = layer.state(old) if old is not None else None
    lengths = tuple(dict.fromkeys(layer.model.lengths))
    weight = layer.model.tokens / len(lengths)
    best: tuple[float, States | None] = (np.inf, None)
    if before is not None:
        best = (weight * float(layer.costs(before, lengths)[0]), before)
    for proj, ffn, seconds in layer.tokens_s(lengths):
        cost = weight * seconds
        near = np.flatnonzero(cost < best[0] - AMONG_EQUALS_S)
        if not len(near):
            continue
        states = States(layer.counts[near], np.full(len(near), proj), np.full(len(near), ffn))
        total = cost[near] + (layer.moving_s(before, states) if before is not None else 0.0)
        row = int(total.argmin())
        if total[row] < best[0] - AMONG_EQUALS_S:
            best = (float(total[row]), states.take(np.array([row])))
    if best[1] is None or best[0] == np.inf:
        return None, np.inf
    return layer.placement(best[1], old), best[0]


def _vectors(heads: int, devices: int) -> int:
    """How many vectors of counts there are."""
    found = 1
    for number in range(1, devices):
        found = found * (heads + number) // number
    return found
