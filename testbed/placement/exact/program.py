"""One decision on a star as a program: for each half-layer, what every option costs and uses.

A token's path runs over *hubs*, the devices where half-layers end. Stage j of the program is half-layer j: it leads
from one hub to the next and takes one of its options, which say how many units each device has. An option and a hub
use memory, links and storage. Memory is bytes at the interval's last token and, when something is placed already,
bytes that arrive at a device until commit. Links and storage are seconds that a migration occupies them. A solution
costs the seconds of the whole interval: the latency of its tokens without the LM head, and the busiest link or
storage. The caller decides which paths may be used, and adds the delay of the longest one and the handshake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from testbed.placement.array_types import Flags, Floats, Ints
from testbed.placement.blocks import Block, Placement, layer_blocks, resident_bytes
from testbed.placement.cost.memory import device_needs, rooms_for
from testbed.placement.cost.model import BULK_WIRE_RATIO, CostModel, cached_length, cost_model, moved_bytes
from testbed.placement.cost.tables import half_demand, network_of, units_of
from testbed.placement.exact.classes import PlacementClass
from testbed.placement.exact.options import Options, movable, options_of, with_relays
from testbed.placement.latency import STALLED_RATE
from testbed.placement.observation import Observation
from testbed.wire import OUTAGE_BPS


@dataclass(frozen=True)
class Stage:
    """One half-layer. Among the resources memory comes first, then seconds of links and storage."""

    blocks: tuple[Block, ...]  # its units, and last the block at its hub
    old: tuple[int, ...] | None  # present device of each, or None when nothing is placed
    options: Options
    seconds: Floats  # (devices, devices, options): from hub, to hub; of all the interval's tokens; inf: not allowed
    use: Floats  # (options, resources)
    hub_use: Floats  # (devices, resources): of the block at the hub, by hub

    def take(self, chosen: Ints | Flags) -> Stage:
        """The stage with some of its options."""
        seconds = np.ascontiguousarray(self.seconds[:, :, chosen])
        return replace(self, options=self.options.take(chosen), seconds=seconds, use=self.use[chosen])

    def priced(self, prices: Floats) -> Floats:
        """(devices, devices, options): cost of each option when resources have prices, those of the hub included."""
        priced: Floats = self.seconds + (self.use @ prices)[None, None, :] + (self.hub_use @ prices)[None, :, None]
        return priced


@dataclass(frozen=True)
class Program:
    """A decision to make: the stages in the order of a token, and how much of each resource there is."""

    model: CostModel
    old: Placement | None
    stages: tuple[Stage, ...]
    return_s: Floats  # (devices,): seconds in which the interval's last x return to the source, by last hub
    limits: Floats  # (memories,): bytes
    unit_bytes: Floats  # (memories,): every option uses a multiple of so many bytes; 0 where there is no such size
    same_hub: bool  # whether a single hub must serve everything

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.return_s)

    @property
    def memories(self) -> int:
        """How many of the resources are memory."""
        return len(self.limits)

    @property
    def resources(self) -> int:
        """How many resources there are: memories, and seconds of links and storage."""
        return int(self.stages[0].use.shape[1])


def build(observation: Observation, old: Placement | None, klass: PlacementClass) -> Program:
    """The program of one decision, restricted to a class of placements (see `policies.exact`)."""
    model = cost_model(observation)
    sizes = _Sizes(model, old)
    stages: list[Stage] = []
    for number, kind in enumerate(model.halves[:2]):
        table = _Seconds(model, number)
        for layer in range(model.shape.layers):
            blocks = layer_blocks(model.shape, model.partition, layer)
            heads = model.shape.kv_heads + 1
            mine = blocks[:heads] if number == 0 else blocks[heads:]
            at = None if old is None else tuple(model.index[old.devices[block]] for block in mine)
            options = options_of(table.units, len(model.names), kind.partial, at[:-1] if at else None)
            whole = klass in ("single", "layer") or (klass == "head" and number == 1)
            whole |= klass == "shard" and number == 0
            seconds = table.of(options, whole, number == 1 and klass in ("single", "layer"))
            use = np.zeros((len(options), sizes.resources))
            if kind.work is not None:
                use = sizes.use(mine[0], options.counts, options.arriving, options.leaving)
            stage = Stage(mine, at, options, seconds, use, sizes.hub_use(mine[-1], at[-1] if at else None))
            stages.append(stage)
    layers = model.shape.layers
    ordered = tuple(stages[layers * part + layer] for layer in range(layers) for part in (0, 1))
    return_s = np.array([model.source_seconds(last, lm_head=False) for last in range(len(model.names))])
    return Program(model, old, ordered, return_s * model.tokens, sizes.limits, sizes.unit_bytes, klass == "single")


def restricted(program: Program, allowed: Flags) -> Program:
    """The program when blocks may move over allowed paths only; units may be passed on where that helps."""
    stages: list[Stage] = []
    for stage in program.stages:
        if stage.old is None:
            stages.append(stage)
            continue
        old, at = stage.old[:-1], stage.old[-1]
        if stage.options.by_unit:
            stage = stage.take(movable(stage.options, old, allowed))
        elif not movable(stage.options, old, allowed).all():
            stage = _with_relays(program, stage, allowed)
        seconds = stage.seconds.copy()
        seconds[:, ~allowed[at] & (np.arange(program.devices) != at), :] = np.inf
        stages.append(replace(stage, seconds=seconds))
    return replace(program, stages=tuple(stages))


def _with_relays(program: Program, stage: Stage, allowed: Flags) -> Stage:
    options = with_relays(stage.options, allowed)
    place = {tuple(row): number for number, row in enumerate(stage.options.counts.tolist())}
    rows = np.array([place[tuple(row)] for row in options.counts.tolist()], np.int64)
    sizes = _Sizes(program.model, program.old)
    use = sizes.use(stage.blocks[0], options.counts, options.arriving, options.leaving)
    return replace(stage, options=options, seconds=stage.seconds[:, :, rows], use=use)


class _Sizes:
    """What blocks use: bytes at the interval's end, bytes arriving, seconds of uplinks, downlinks and storage."""

    def __init__(self, model: CostModel, old: Placement | None) -> None:
        self.model = model
        self.moving = old is not None
        seen = model.observation
        rooms = rooms_for(seen)
        limits = list(rooms)
        if old is not None:
            held = device_needs(seen, old, seen.length)
            free = [view.available_bytes - held[view.name] for view in seen.devices]
            limits += [max(0, left) for left in free]
            self.full = np.array([left < 0 for left in free])  # takes nothing, not even a block of no bytes
        self.limits = np.array(limits, np.float64)
        self.resources = len(limits) + (3 * len(rooms) if self.moving else 0)
        links = [seen.links[name] for name in model.names]
        self.up = np.array([BULK_WIRE_RATIO * 8 / max(link.up_bps, OUTAGE_BPS) for link in links])
        self.down = np.array([BULK_WIRE_RATIO * 8 / max(link.down_bps, OUTAGE_BPS) for link in links])
        self.load = np.array([1 / max(view.storage_Bps, STALLED_RATE) for view in seen.devices])
        self.unit_bytes = np.zeros(len(limits))
        if model.halves[1].work is None:  # heads are the only units
            head = Block("head", 0)
            lengths = (seen.final_length, seen.length)
            sizes = [resident_bytes(model.shape, head, length, model.partition) for length in lengths]
            self.unit_bytes = np.repeat(np.array(sizes, np.float64), len(rooms))[: len(limits)]

    def use(self, block: Block, counts: Ints, arriving: Ints, leaving: Ints) -> Floats:
        """(rows, resources) of so many blocks like this one held by each device, arriving there and leaving it."""
        seen, model = self.model.observation, self.model
        end = resident_bytes(model.shape, block, seen.final_length, model.partition)
        if not self.moving:
            return np.asarray(counts * float(end))
        now = resident_bytes(model.shape, block, seen.length, model.partition)
        sent, loaded = moved_bytes(seen, block, cached_length(seen))
        incoming = arriving * np.where(self.full, max(now, 1), now)
        up, down, load = leaving * sent * self.up, arriving * sent * self.down, arriving * loaded * self.load
        return np.hstack([np.asarray(part, np.float64) for part in (counts * end, incoming, up, down, load)])

    def hub_use(self, block: Block, old: int | None) -> Floats:
        """(devices, resources) of one block, by its device."""
        here = np.eye(len(self.up), dtype=np.int64)
        if old is None:
            return self.use(block, here, here, here)
        moved = np.arange(len(self.up)) != old
        return self.use(block, here, here * moved, here[old][None, :] * moved[:, None])


class _Seconds:
    """Seconds of one kind of half over the interval's tokens, by hubs and option."""

    def __init__(self, model: CostModel, number: int) -> None:
        self.model, self.number, self.kind = model, number, model.halves[number]
        self.units = units_of(model, self.kind)
        self._found: dict[bytes, Floats] = {}

    def of(self, options: Options, whole: bool, same: bool) -> Floats:
        """(devices, devices, options); inf where the class wants units whole at the hub, or the hub unchanged."""
        devices = len(self.model.names)
        distinct, back = np.unique(np.hstack([options.counts, options.roots]), axis=0, return_inverse=True)
        key = distinct.tobytes()
        found = self._found.get(key)
        if found is None:
            one_by_one = options.by_unit or not self.units
            found = self._one_by_one(distinct) if one_by_one else self._compiled(distinct[:, :devices])
            self._found[key] = found = found * self.model.tokens
        seconds: Floats = found[:, :, back.reshape(-1)].copy()
        if whole and self.units:
            for hub in range(devices):
                seconds[:, hub, options.counts[:, hub] < self.units] = np.inf
        if same:
            seconds[~np.eye(devices, dtype=bool)] = np.inf
        return seconds

    def _one_by_one(self, distinct: Ints) -> Floats:
        devices = len(self.model.names)
        rows = [(tuple(row[:devices]), tuple(row[devices:])) for row in distinct.tolist()]
        latency = (self.model.attention, self.model.ffn)[self.number]
        return np.array(
            [
                [[latency(holder, hub, counts, roots) for counts, roots in rows] for hub in range(devices)]
                for holder in range(devices)
            ]
        )

    def _compiled(self, counts: Ints) -> Floats:
        from testbed.placement.cost.kernel import half_batch

        devices = len(self.model.names)
        pairs = np.array([(i, j) for i in range(devices) for j in range(devices)], np.int64)
        holders, hubs = (np.repeat(pairs[:, part], len(counts)) for part in (0, 1))
        every = np.tile(np.ascontiguousarray(counts), (devices * devices, 1))
        network, demand = network_of(self.model.observation), half_demand(self.model, self.kind)
        found = half_batch(network, demand, holders, hubs, every)
        return np.asarray(found.reshape(devices, devices, len(counts)))


def path_delays(observation: Observation) -> Floats:
    """(devices, devices): seconds from one device to another, as a migration is charged for it.

    From a device to itself nothing moves; the figure there is that of its link up and down again, so that the sets of
    devices within reach of some delay are nested (`options.matched`).
    """
    names: Sequence[str] = [view.name for view in observation.devices]
    return np.array([[sum(leg.delay_s for leg in observation.path(i, j)) for j in names] for i in names])
