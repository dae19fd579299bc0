"""A decision as arrays: what the compiled search works on. `unfolding` is the way from its counts back to a placement.

A token passes 2·L + 2 halves: each layer's attention and FFN, the way home, and the LM head. Every half has a target
(the device of proj, of the FFN, of the sum; the source for the last two), a number of like units on each device
(heads, shards of the FFN, or of the LM head where it is cut), and a holder: the target of the half before. So a
placement is a row per half: units by device, and the target in the last column.
Importing this module loads numba, because `kernel` does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.placement.blocks import Block, Placement, blocks_of, layer_blocks, resident_bytes
from testbed.placement.cost.kernel import KINDS, Floats, Half, Ints, Network, Tables, half_of, network_of, tables_of
from testbed.placement.cost.latency import OUTAGE_BPS, STALLED_RATE, transfer_seconds
from testbed.placement.cost.memory import rooms_for
from testbed.placement.cost.model import BULK_WIRE_RATIO, MIGRATION_HANDSHAKE_S, CostModel, cached_length, moved_bytes
from testbed.placement.observation import Observation
from testbed.placement.plan import (
    VOCAB,
    HalfKind,
    choice_payload,
    halves_of,
    partial_payload,
    result_payload,
    x_payload,
)
from testbed.placement.tree import aligned_roots

ATTENTION, FFN, HOME, HEAD = range(4)  # kinds of half
UNIT, TARGET = 0, 1  # columns of the tables by kind of half
GRAINS = 4  # the part of the largest block that any excess counts for besides, so that a few bytes matter


# Rows of `Problem.sizes`: bytes of a half's blocks, columns UNIT and TARGET.
END, NOW, RUN, SENT, LOAD = range(5)  # resident at the interval's last token, now, at the run's last; moved how
# Rows of `Problem.devices`.
ROOM = 0  # bytes for blocks: the budget, less what is pinned
OLD_NOW = 1  # bytes the old blocks keep resident now
SENDERS, RECEIVERS = 2, 3  # devices in the order in which they give units away, and take them
LATER_ROOM = 5  # bytes for blocks that are expected afterwards
SHORT = 4  # devices worth trying as a destination, `worth_trying` of them
THIS, LATER = 0, 1  # cases of the tables: the coming interval, and what is expected afterwards


class Problem(NamedTuple):
    """One decision. In `old`, as in a state's `place`, the last column is the target and the others are counts."""

    tables: Tables
    tokens: float  # of the coming interval
    around_s: float  # the source's own work for one token, LM head left out
    handshake_s: float
    source: int
    placed: bool  # False at the first placement
    worth_trying: int
    grain: int  # bytes that the smallest excess counts for at least
    units: Ints  # (kinds,)
    sizes: Ints  # (5, kinds, 2)
    devices: Ints  # (6, devices)
    old: Ints  # (halves, devices + 1)
    byte_s: Floats  # (directed links,): seconds per migrated byte; a star's are all uplinks, then all downlinks
    load_s: Floats  # (devices,): seconds per byte from storage
    way_delay_s: Floats  # (devices, devices): of the path


def halves_for(model: CostModel) -> tuple[Half, ...]:
    """Attention, FFN, the way home and the LM head, as the kernel wants them: both lengths of the model's interval."""
    shape, devices = model.shape, len(model.names)
    x = x_payload(shape)
    found: list[Half] = []
    idle = (0.0,) * devices
    for kind, units in zip((*halves_of(model.partition), VOCAB), units_of(model), strict=True):
        lengths = model.lengths if kind.work == "head" else model.lengths[:1]
        payloads = [_result_payload(model, kind, count) for count in range(units + 1)]
        unit_s = [model.seconds(kind.work, length) if kind.work is not None else idle for length in lengths]
        target_s = [model.seconds(kind.target, length) if kind.target is not None else idle for length in lengths]
        found.append(half_of(x, payloads, unit_s, target_s))
    found.insert(HOME, half_of(x, [0.0], [idle], [idle]))
    return tuple(found)


def _result_payload(model: CostModel, kind: HalfKind, count: int) -> float:
    if kind.partial:
        return partial_payload(model.shape, aligned_roots(count))
    return choice_payload(count) if kind is VOCAB else result_payload(model.shape, count)


def units_of(model: CostModel) -> tuple[int, int, int]:
    """Heads (KV groups) of a layer, shards of an FFN, shards of the LM head: none of what is whole."""
    shards, vocab = model.partition.ffn_shards, model.partition.vocab_shards
    return model.shape.kv_heads, shards if shards > 1 else 0, vocab if vocab > 1 else 0


def half_blocks(observation: Observation) -> list[tuple[tuple[Block, ...], Block | None]]:
    """(units, target's block) of each half; the way home has none, and the LM head no target's."""
    shape, partition = observation.shape, observation.partition
    found: list[tuple[tuple[Block, ...], Block | None]] = []
    for layer in range(shape.layers):
        blocks = layer_blocks(shape, partition, layer)
        cut = shape.kv_heads + 1
        found += [(blocks[: cut - 1], blocks[cut - 1]), (blocks[cut:-1], blocks[-1])]
    vocab = blocks_of(shape, partition)[-partition.vocab_shards :] if partition.vocab_shards > 1 else ()
    return [*found, ((), None), (vocab, None)]


def places_of(model: CostModel, placement: Placement) -> Ints:
    """Counts and, in the last column, targets of a placement: (halves, devices + 1)."""
    pairs = half_blocks(model.observation)
    found = np.zeros((len(pairs), len(model.names) + 1), np.int64)
    where, index = placement.devices, model.index
    for half, (units, goal) in enumerate(pairs):
        for block in units:
            found[half, index[where[block]]] += 1
        found[half, -1] = index[where[goal]] if goal is not None else model.source
    return found


def kind_of(half: int, halves: int) -> int:
    """ATTENTION, FFN, HOME or HEAD."""
    return half % 2 if half < halves - 2 else half - halves + 4


def make_problem(model: CostModel, old: Placement | None, later: CostModel) -> Problem:
    """The decision that `model`'s observation asks for, from `old`; `later` is the model of the time after it."""
    seen = model.observation
    count = len(model.names)
    run_length = max(seen.final_length, seen.prompt_tokens + seen.tokens_max - 1)
    cached = cached_length(seen)
    sizes = np.zeros((5, KINDS, 2), np.int64)
    pairs = half_blocks(seen)
    for kind, (units, goal) in enumerate((*pairs[:2], *pairs[-2:])):
        for column, block in enumerate((units[0] if units else None, goal)):
            if block is None:
                continue
            for row, length in (END, seen.final_length), (NOW, seen.length), (RUN, run_length):
                sizes[row, kind, column] = resident_bytes(seen.shape, block, length, seen.partition)
            sizes[[SENT, LOAD], kind, column] = moved_bytes(seen, block, cached)
    devices = np.zeros((6, count), np.int64)
    devices[ROOM] = rooms_for(seen)
    devices[LATER_ROOM] = rooms_for(later.observation)
    short = worth_trying(model, devices[ROOM], sizes, old)
    devices[SHORT, : len(short)] = short
    present = np.zeros((len(pairs), count + 1), np.int64)
    if old is not None:
        present = places_of(model, old)
        for half, place in enumerate(present):
            devices[OLD_NOW] += place[:-1] * sizes[NOW, kind_of(half, len(pairs)), UNIT]
            devices[OLD_NOW, place[-1]] += sizes[NOW, kind_of(half, len(pairs)), TARGET]
    network = network_of(seen)
    byte_s, way_delay_s = _ways(model, network)
    devices[SENDERS] = np.argsort(way_delay_s.sum(axis=1), kind="stable")
    devices[RECEIVERS] = np.argsort(-way_delay_s.sum(axis=0), kind="stable")
    return Problem(
        tables=tables_of([(network, halves_for(model)), (network_of(later.observation), halves_for(later))]),
        tokens=float(model.tokens),
        around_s=model.source_seconds(model.source, lm_head=False),
        handshake_s=MIGRATION_HANDSHAKE_S,
        source=model.source,
        placed=old is not None,
        worth_trying=len(short),
        grain=int(sizes[END].max()) // GRAINS,
        units=np.insert(np.array(units_of(model), np.int64), HOME, 0),
        sizes=sizes,
        devices=devices,
        old=present,
        byte_s=byte_s,
        load_s=np.array([1 / max(view.storage_Bps, STALLED_RATE) for view in seen.devices]),
        way_delay_s=way_delay_s,
    )


def _ways(model: CostModel, network: Network) -> tuple[Floats, Floats]:
    """Seconds per migrated byte of each directed link, and the delay of each path."""
    seen, names = model.observation, model.names
    if not network.routed:
        rates = np.concatenate([network.up_bps, network.down_bps])
        delay = network.up_delay_s[:, None] + network.down_delay_s[None, :]
    else:
        rates = network.hop_bps
        delay = np.zeros((len(names), len(names)))
        for i, source in enumerate(names):
            for j, target in enumerate(names):
                if i != j:
                    delay[i, j] = sum(leg.delay_s for leg in seen.path(source, target))
    return BULK_WIRE_RATIO * 8 / np.maximum(rates, OUTAGE_BPS), np.ascontiguousarray(delay)


ENOUGH = 12  # devices always worth trying; beyond them, the fastest until they hold the model twice


def worth_trying(model: CostModel, room: Ints, sizes: Ints, old: Placement | None) -> list[int]:
    """Devices worth trying as a destination, fastest first: enough of them, and all that hold blocks now.

    Fastest by a layer's time alone on the device, and a message there and back.
    """
    layer = model.seconds("head", model.lengths[1])
    kinds = halves_of(model.partition)
    units = units_of(model)
    alone = [model.shape.kv_heads * seconds for seconds in layer]
    for kind, count in zip(kinds, (0, units[1]), strict=True):
        target = model.seconds(kind.target, model.lengths[1]) if kind.target is not None else ()
        work = model.seconds(kind.work, model.lengths[1]) if kind.work is not None and count else (0.0,) * len(alone)
        alone = [total + goal + count * unit for total, goal, unit in zip(alone, target, work, strict=True)]
    names, source, payload = model.names, model.names[model.source], x_payload(model.shape)
    for device, name in enumerate(names):
        if device != model.source:
            for path in model.observation.path(source, name), model.observation.path(name, source):
                alone[device] += transfer_seconds(path, payload, model.observation.hop_overhead_s)
    held = {model.index[name] for name in set(old.devices.values())} if old is not None else set()
    layer_bytes = sizes[END, :HOME, UNIT] * units[:HOME] + sizes[END, :HOME, TARGET]
    need = int(layer_bytes.sum()) * model.shape.layers + int(sizes[END, HEAD, UNIT]) * units[-1]
    found: list[int] = []
    for device in sorted(range(len(names)), key=lambda device: (alone[device], device)):
        if len(found) < ENOUGH or sum(int(room[one]) for one in found) < 2 * need or device in held:
            found.append(device)
    return found
