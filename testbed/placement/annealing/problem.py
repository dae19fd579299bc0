"""A decision as arrays: what the compiled search works on. `counts_to_blocks` leads from its counts back to blocks.

A token passes 2·L + 2 halves: each layer's attention and FFN, its return to the source, and the LM head. Every half has

- a *target*, the device where it ends: that of proj, of the FFN or of the sum; the source for the last two halves;
- a number of like *units* on each device: heads, shards of the FFN, or shards of the LM head where it is cut;
- a *holder*, the device that has x when it begins: the target of the half before.

So the *places* of a placement are a row per half: units by device, and the target in the last column.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from testbed.placement.annealing.tuning import GRAINS, HELD_TIMES, WORTH_TRYING
from testbed.placement.array_types import Floats, Ints
from testbed.placement.blocks import Block, Placement, blocks_of, layer_blocks, resident_bytes
from testbed.placement.cost.memory import kinds_at, rooms_for
from testbed.placement.cost.model import MIGRATION_HANDSHAKE_S, CostModel, cached_length, moved_bytes
from testbed.placement.cost.tables import (
    KINDS,
    Tables,
    demands_of,
    link_costs,
    network_of,
    tables_of,
    units_of,
)
from testbed.placement.latency import STALLED_RATE, transfer_seconds
from testbed.placement.observation import Observation
from testbed.placement.plan import VOCAB, halves_of, x_payload

RETURN, LM_HEAD = 2, 3  # kinds of half beside blocks.ATTENTION and blocks.FFN
UNIT, TARGET = 0, 1  # columns of `Problem.sizes`: of one unit, and of the target's block

# Rows of `Problem.sizes`, in bytes: resident at the interval's last token, now, at the run's last token; sent over the
# network and loaded from storage when a block moves.
INTERVAL_END, NOW, RUN_END, SENT, LOAD = range(5)
# Rows of `Problem.devices`.
ROOM = 0  # bytes for blocks: the budget, less what is pinned
OLD_NOW = 1  # bytes the old blocks keep resident now
SENDERS, RECEIVERS = 2, 3  # devices in the order in which they give units away, and take them
SHORTLIST = 4  # devices worth trying as a destination, `worth_trying` of them
LATER_ROOM = 5  # bytes for blocks that are expected after the interval
THIS, LATER = 0, 1  # cases of the tables: the coming interval, and what is expected after it


class Problem(NamedTuple):
    """One decision. `old` has the places of the present placement."""

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
    path_delay_s: Floats  # (devices, devices)


def half_blocks(observation: Observation) -> list[tuple[tuple[Block, ...], Block | None]]:
    """(units, target's block) of each half; the return has neither, and the LM head has no target's block."""
    shape, partition = observation.shape, observation.partition
    found: list[tuple[tuple[Block, ...], Block | None]] = []
    for layer in range(shape.layers):
        blocks = layer_blocks(shape, partition, layer)
        cut = shape.kv_heads + 1
        found += [(blocks[: cut - 1], blocks[cut - 1]), (blocks[cut:-1], blocks[-1])]
    vocab = blocks_of(shape, partition)[-partition.vocab_shards :] if partition.vocab_shards > 1 else ()
    return [*found, ((), None), (vocab, None)]


def places_of(model: CostModel, placement: Placement) -> Ints:
    """The places of a placement: (halves, devices + 1)."""
    pairs = half_blocks(model.observation)
    found = np.zeros((len(pairs), len(model.names) + 1), np.int64)
    where, index = placement.devices, model.index
    for half, (units, goal) in enumerate(pairs):
        for block in units:
            found[half, index[where[block]]] += 1
        found[half, -1] = index[where[goal]] if goal is not None else model.source
    return found


def kind_of(half: int, halves: int) -> int:
    """The kind of a half: ATTENTION, FFN, RETURN or LM_HEAD."""
    return half % 2 if half < halves - 2 else half - halves + 4


def make_problem(model: CostModel, old: Placement | None, later: CostModel) -> Problem:
    """The decision that `model`'s observation asks for, from `old`; `later` is the model of what comes after it."""
    seen = model.observation
    count = len(model.names)
    run_length = max(seen.final_length, seen.prompt_tokens + seen.tokens_max - 1)
    cached = cached_length(seen)
    sizes = np.zeros((5, KINDS, 2), np.int64)
    pairs = half_blocks(seen)
    for kind, (parts, goal) in enumerate((*pairs[:2], *pairs[-2:])):
        for column, block in enumerate((parts[0] if parts else None, goal)):
            if block is None:
                continue
            for row, length in (INTERVAL_END, seen.final_length), (NOW, seen.length), (RUN_END, run_length):
                sizes[row, kind, column] = resident_bytes(seen.shape, block, length, seen.partition)
            sizes[[SENT, LOAD], kind, column] = moved_bytes(seen, block, cached)
    devices = np.zeros((6, count), np.int64)
    devices[ROOM] = rooms_for(seen)
    devices[LATER_ROOM] = rooms_for(later.observation)
    units = _units_by_kind(model)
    shortlist = worth_trying(model, old)
    devices[SHORTLIST, : len(shortlist)] = shortlist
    present = np.zeros((len(pairs), count + 1), np.int64)
    if old is not None:
        present = places_of(model, old)
        for half, place in enumerate(present):
            devices[OLD_NOW] += place[:-1] * sizes[NOW, kind_of(half, len(pairs)), UNIT]
            devices[OLD_NOW, place[-1]] += sizes[NOW, kind_of(half, len(pairs)), TARGET]
    network = network_of(seen)
    byte_s, path_delay_s = link_costs(model, network)
    devices[SENDERS] = np.argsort(path_delay_s.sum(axis=1), kind="stable")
    devices[RECEIVERS] = np.argsort(-path_delay_s.sum(axis=0), kind="stable")
    return Problem(
        tables=tables_of([(network, demands_of(model)), (network_of(later.observation), demands_of(later))]),
        tokens=float(model.tokens),
        around_s=model.source_seconds(model.source, lm_head=False),
        handshake_s=MIGRATION_HANDSHAKE_S,
        source=model.source,
        placed=old is not None,
        worth_trying=len(shortlist),
        grain=int(sizes[INTERVAL_END].max()) // GRAINS,
        units=units,
        sizes=sizes,
        devices=devices,
        old=present,
        byte_s=byte_s,
        load_s=np.array([1 / max(view.storage_Bps, STALLED_RATE) for view in seen.devices]),
        path_delay_s=path_delay_s,
    )


def _units_by_kind(model: CostModel) -> Ints:
    """(kinds,): units of attention, FFN, return and LM head."""
    attention, ffn = halves_of(model.partition)
    return np.array([units_of(model, attention), units_of(model, ffn), 0, units_of(model, VOCAB)], np.int64)


def worth_trying(model: CostModel, old: Placement | None) -> list[int]:
    """Devices worth trying as a destination, fastest first: enough of them, and all that hold blocks now.

    A device is fast if a whole layer takes little time on it, with a message there and one back.
    """
    names, source, seen = model.names, model.names[model.source], model.observation
    alone = _layer_seconds(model)
    for device, name in enumerate(names):
        if device != model.source:
            for path in seen.path(source, name), seen.path(name, source):
                alone[device] += transfer_seconds(path, x_payload(model.shape), seen.hop_overhead_s)
    held = {model.index[name] for name in set(old.devices.values())} if old is not None else set()
    need = HELD_TIMES * sum(size * count for _, size, count in kinds_at(seen, seen.final_length))
    room = rooms_for(seen)
    found: list[int] = []
    found_room = 0
    for device in sorted(range(len(names)), key=lambda device: (alone[device], device)):
        if len(found) < WORTH_TRYING or found_room < need or device in held:
            found.append(device)
            found_room += room[device]
    return found


def only_worth_trying(model: CostModel, old: Placement | None) -> Observation:
    """The observation with the source and the devices worth trying: a search never puts a block on any other."""
    kept = {*worth_trying(model, old), model.source}
    devices = tuple(view for number, view in enumerate(model.observation.devices) if number in kept)
    return model.observation if len(devices) == len(model.names) else replace(model.observation, devices=devices)


def _layer_seconds(model: CostModel) -> list[float]:
    """Seconds of a whole layer on each device, without messages."""
    length = model.lengths[1]
    attention, ffn = halves_of(model.partition)
    assert attention.target is not None and ffn.target is not None
    shards = units_of(model, ffn)
    heads, goals = model.seconds("head", length), model.seconds(attention.target, length)
    alone = [model.shape.kv_heads * head + goal for head, goal in zip(heads, goals, strict=True)]
    goals = model.seconds(ffn.target, length)
    work = model.seconds(ffn.work, length) if ffn.work is not None else (0.0,) * len(alone)
    return [total + goal + shards * shard for total, goal, shard in zip(alone, goals, work, strict=True)]
