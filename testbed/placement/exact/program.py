"""One decision on a star as arrays: for each half-layer, what every way to carry it out costs and uses.

A token's way is a path over *hubs*, the devices where halves end. Half j goes from hub j to hub j + 1 and spreads its
units in one of its ways. A way and a hub use memory: bytes at the interval's last token, and, when something is
placed already, bytes that come to a device until commit; and they use links and storage while migrating. Costs are
seconds of the whole interval: its tokens' latency without the LM head, and the busiest link or storage. The longest
path's delay and the handshake are added by the caller, who fixes which paths may be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from testbed.placement.blocks import Block, Placement, layer_blocks, resident_bytes
from testbed.placement.cost.latency import OUTAGE_BPS, STALLED_RATE
from testbed.placement.cost.memory import device_needs, rooms_for
from testbed.placement.cost.model import BULK_WIRE_RATIO, CostModel, cached_length, cost_model, moved_bytes
from testbed.placement.exact.classes import PlacementClass
from testbed.placement.exact.options import Flags, Ints, Options, movable, options_of, with_relays
from testbed.placement.observation import Observation
from testbed.placement.plan import HalfKind, partial_payload, result_payload, x_payload
from testbed.placement.tree import aligned_roots

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Half:
    """One half-layer. Memory comes first among the resources, then seconds of links and storage."""

    blocks: tuple[Block, ...]  # its units, and last the block at its hub
    old: tuple[int, ...] | None  # present device of each, or None when nothing is placed
    options: Options
    seconds: Floats  # (devices, devices, ways): from hub, to hub, way; of all the interval's tokens; inf: not allowed
    use: Floats  # (ways, resources)
    hub_use: Floats  # (devices, resources): of the block at the hub, by hub

    def take(self, chosen: Ints | Flags) -> Half:
        """The half with some of its ways."""
        seconds = np.ascontiguousarray(self.seconds[:, :, chosen])
        return replace(self, options=self.options.take(chosen), seconds=seconds, use=self.use[chosen])

    def priced(self, prices: Floats) -> Floats:
        """(devices, devices, ways): cost of each way when resources have prices; the hub's resources included."""
        priced: Floats = self.seconds + (self.use @ prices)[None, None, :] + (self.hub_use @ prices)[None, :, None]
        return priced


@dataclass(frozen=True)
class Problem:
    """A decision to make: the halves in the order of a token, and what there is of each resource."""

    model: CostModel
    old: Placement | None
    halves: tuple[Half, ...]
    home: Floats  # (devices,): seconds of the interval's ways home, by last hub
    limits: Floats  # (memories,): bytes
    units: Floats  # (memories,): bytes that every way uses in multiples of; 0 where there is no such size
    same_hub: bool  # whether a single hub must serve everything

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.home)

    @property
    def memories(self) -> int:
        """How many of the resources are memory."""
        return len(self.limits)

    @property
    def resources(self) -> int:
        """How many resources there are: memories, and seconds of links and storage."""
        return int(self.halves[0].use.shape[1])


def build(observation: Observation, old: Placement | None, klass: PlacementClass) -> Problem:
    """The problem of one decision, restricted to a class of placements (see `policies.exact`)."""
    model = cost_model(observation)
    sizes = _Sizes(model, old)
    halves: list[Half] = []
    for number, kind in enumerate(model.halves[:2]):
        units = _units(model, kind)
        table = _Seconds(model, number, units)
        for layer in range(model.shape.layers):
            blocks = layer_blocks(model.shape, model.partition, layer)
            heads = model.shape.kv_heads + 1
            mine = blocks[:heads] if number == 0 else blocks[heads:]
            at = None if old is None else tuple(model.index[old.devices[block]] for block in mine)
            options = options_of(units, len(model.names), kind.partial, at[:-1] if at else None)
            whole = klass in ("single", "layer") or (klass == "head" and number == 1)
            whole |= klass == "shard" and number == 0
            seconds = table.of(options, whole, number == 1 and klass in ("single", "layer"))
            use = np.zeros((len(options), sizes.resources))
            if kind.work is not None:
                use = sizes.use(mine[0], options.counts, options.came, options.left)
            half = Half(mine, at, options, seconds, use, sizes.hub_use(mine[-1], at[-1] if at else None))
            halves.append(half)
    layers = model.shape.layers
    ordered = tuple(halves[layers * part + layer] for layer in range(layers) for part in (0, 1))
    home = np.array([model.source_seconds(last, lm_head=False) for last in range(len(model.names))])
    return Problem(model, old, ordered, home * model.tokens, sizes.limits, sizes.units, klass == "single")


def restricted(problem: Problem, allowed: Flags) -> Problem:
    """The problem when blocks may move over allowed paths only; units may be passed on where that helps."""
    halves: list[Half] = []
    for half in problem.halves:
        if half.old is None:
            halves.append(half)
            continue
        old = half.old[:-1]
        if half.options.dealt.shape[1]:
            half = half.take(movable(half.options, old, allowed))
        elif not movable(half.options, old, allowed).all():
            half = _with_relays(problem, half, allowed)
        at = half.old[-1] if half.old is not None else 0
        seconds = half.seconds.copy()
        seconds[:, ~allowed[at] & (np.arange(problem.devices) != at), :] = np.inf
        halves.append(replace(half, seconds=seconds))
    return replace(problem, halves=tuple(halves))


def _with_relays(problem: Problem, half: Half, allowed: Flags) -> Half:
    options = with_relays(half.options, allowed)
    place = {tuple(row): number for number, row in enumerate(half.options.counts.tolist())}
    rows = np.array([place[tuple(row)] for row in options.counts.tolist()], np.int64)
    sizes = _Sizes(problem.model, problem.old)
    use = sizes.use(half.blocks[0], options.counts, options.came, options.left)
    return replace(half, options=options, seconds=half.seconds[:, :, rows], use=use)


def _units(model: CostModel, kind: HalfKind) -> int:
    if kind.work is None:
        return 0
    return model.shape.kv_heads if kind.work == "head" else model.partition.ffn_shards


class _Sizes:
    """What blocks use: bytes at the interval's end, bytes coming, seconds of uplinks, downlinks and storage."""

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
        self.units = np.zeros(len(limits))
        if model.halves[1].work is None:  # heads are the only units
            head = Block("head", 0)
            lengths = (seen.final_length, seen.length)
            sizes = [resident_bytes(model.shape, head, length, model.partition) for length in lengths]
            self.units = np.repeat(np.array(sizes, np.float64), len(rooms))[: len(limits)]

    def use(self, block: Block, counts: Ints, came: Ints, left: Ints) -> Floats:
        """(rows, resources) of so many blocks like this one on each device, coming to it and leaving it."""
        seen, model = self.model.observation, self.model
        end = resident_bytes(model.shape, block, seen.final_length, model.partition)
        if not self.moving:
            return np.asarray(counts * float(end))
        now = resident_bytes(model.shape, block, seen.length, model.partition)
        sent, loaded = moved_bytes(seen, block, cached_length(seen))
        coming = came * np.where(self.full, max(now, 1), now)
        parts = [counts * end, coming, left * sent * self.up, came * sent * self.down, came * loaded * self.load]
        return np.hstack([np.asarray(part, np.float64) for part in parts])

    def hub_use(self, block: Block, old: int | None) -> Floats:
        """(devices, resources) of one block, by its device."""
        here = np.eye(len(self.up), dtype=np.int64)
        if old is None:
            return self.use(block, here, here, here)
        moved = np.arange(len(self.up)) != old
        return self.use(block, here, here * moved, here[old][None, :] * moved[:, None])


class _Seconds:
    """Seconds of one kind of half over the interval's tokens, by hubs and way."""

    def __init__(self, model: CostModel, number: int, units: int) -> None:
        self.model, self.number, self.units = model, number, units
        self._found: dict[bytes, Floats] = {}

    def of(self, options: Options, whole: bool, same: bool) -> Floats:
        """(devices, devices, ways); inf where the class wants units whole at the hub, or the hub unchanged."""
        devices = len(self.model.names)
        distinct, back = np.unique(np.hstack([options.counts, options.roots]), axis=0, return_inverse=True)
        key = distinct.tobytes()
        found = self._found.get(key)
        if found is None:
            dealt = bool(options.dealt.shape[1])
            found = self._one_by_one(distinct) if dealt or not self.units else self._compiled(distinct[:, :devices])
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
        ways = [(tuple(row[:devices]), tuple(row[devices:])) for row in distinct.tolist()]
        latency = (self.model.attention, self.model.ffn)[self.number]
        return np.array(
            [
                [[latency(holder, hub, counts, roots) for counts, roots in ways] for hub in range(devices)]
                for holder in range(devices)
            ]
        )

    def _compiled(self, counts: Ints) -> Floats:
        from testbed.placement.cost.kernel import half_batch, half_of, network_of  # loads numba

        model, kind = self.model, self.model.halves[self.number]
        assert kind.work is not None and kind.target is not None
        payloads = [_payload(model, kind, count) for count in range(self.units + 1)]
        lengths = model.lengths if kind.work == "head" else model.lengths[:1]
        unit_s = [model.seconds(kind.work, length) for length in lengths]
        target_s = [model.seconds(kind.target, length) for length in lengths]
        half = half_of(x_payload(model.shape), payloads, unit_s, target_s)
        devices = len(model.names)
        pairs = np.array([(i, j) for i in range(devices) for j in range(devices)], np.int64)
        holders, hubs = (np.repeat(pairs[:, part], len(counts)) for part in (0, 1))
        every = np.tile(np.ascontiguousarray(counts), (devices * devices, 1))
        found = half_batch(network_of(model.observation), half, holders, hubs, every)
        return np.asarray(found.reshape(devices, devices, len(counts)))


def _payload(model: CostModel, kind: HalfKind, count: int) -> float:
    if not kind.partial:
        return result_payload(model.shape, count)
    return partial_payload(model.shape, aligned_roots(count))


def path_delays(observation: Observation) -> Floats:
    """(devices, devices): seconds from one device to another, as a migration is charged for it.

    From a device to itself, where nothing moves, it is the way up its link and down again: so the devices that each
    one reaches within some delay are nested (`options.matched`).
    """
    names: Sequence[str] = [view.name for view in observation.devices]
    return np.array([[sum(leg.delay_s for leg in observation.path(i, j)) for j in names] for i in names])
