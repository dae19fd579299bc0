"""The local search of `improve`, compiled: sweeps over the neighbourhood of a draft with a hub.

The groups of shifts are those of `neighbourhood`, in the same order, and tests hold the two searches to the same
decisions. Change both, or neither.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from testbed.placement.array_types import Ints
from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost.machine_code import called, compiled, smallest_observation
from testbed.placement.cost.model import cost_model
from testbed.placement.local.arrays import DEVICES, HERE, SLOTS, Layout, Working, layout_of, working_space
from testbed.placement.local.draft import Draft
from testbed.placement.local.neighbourhood import SPLIT_FROM, dealt_anew
from testbed.placement.local.shifts import begin, per_layer_of, try_group


def improved(draft: Draft, effort: int, worthwhile_s: float) -> list[int]:
    """`where` of the draft when no group of shifts lowers its cost by `worthwhile_s`, or `effort` groups are tried."""
    slots = draft.slots
    shards = slots.shards(0)
    layout = layout_of(draft, _deals(draft, shards), _deals(draft, slots.vocab))
    working = working_space(draft, layout, effort)
    _improve(layout, working, worthwhile_s)
    return working.where.tolist()  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Compile, or load what was compiled before, so that no decision has to wait for it."""
    observation = smallest_observation()
    everywhere = dict.fromkeys(blocks_of(observation.shape, observation.partition), observation.source)
    placement = Placement(everywhere)
    improved(Draft(cost_model(observation), placement, placement), 1, 0.0)


def _deals(draft: Draft, shards: range) -> Ints:
    """(deals, shards): the device of each shard in every group that deals them anew."""
    deals = [[device for _, device in sorted(group)] for group in dealt_anew(draft, shards)] if shards else []
    return np.array(deals, np.int64).reshape(len(deals), len(shards))


@compiled
def _improve(p: Layout, s: Working, worthwhile_s: float) -> None:
    cost = begin(p, s)
    before = np.inf
    while cost < before and s.left[0] > 0:
        before = cost
        for layer in range(p.layers):
            cost = _try_layer(p, s, layer, cost, worthwhile_s)
        cost = _try_lm_head(p, s, cost, worthwhile_s)
        for first in range(p.layers):
            for second in range(first + 1, p.layers):
                cost = _try_exchanges(p, s, first, second, cost, worthwhile_s)


# --- the groups -------------------------------------------------------------------------------------------------


@called
def _try_layer(p: Layout, s: Working, layer: int, cost: float, worthwhile_s: float) -> float:
    """The groups that begin in one layer."""
    per_layer = per_layer_of(p)
    first = layer * per_layer
    middle, stop = first + p.heads, first + per_layer
    end = stop - 1
    for target in range(len(p.budgets)):
        cost = _try_run(p, s, middle, middle + 1, target, cost, worthwhile_s)
        cost = _try_run(p, s, middle + 1, stop, target, cost, worthwhile_s)
        cost = _try_run(p, s, middle, stop, target, cost, worthwhile_s)
        cost = _try_run(p, s, first, middle, target, cost, worthwhile_s)
        cost = _try_run(p, s, first, middle + 1, target, cost, worthwhile_s)
        cost = _try_run(p, s, first, stop, target, cost, worthwhile_s)
        if layer + 1 < p.layers:
            cost = _try_run(p, s, middle + 1, middle + 1 + per_layer, target, cost, worthwhile_s)
            cost = _try_run(p, s, first, stop + per_layer, target, cost, worthwhile_s)
        for source in range(len(p.budgets)):
            cost = _try_some(p, s, 2 * layer, first, middle, source, target, cost, worthwhile_s)
            if p.shards:
                cost = _try_some(p, s, 2 * layer + 1, middle + 1, end, source, target, cost, worthwhile_s)
    if not p.shards:
        return cost
    for target in range(len(p.budgets)):
        cost = _try_run(p, s, end, stop, target, cost, worthwhile_s)
        s.group[SLOTS, 0], s.group[SLOTS, 1] = middle, end
        s.group[DEVICES, 0], s.group[DEVICES, 1] = target, target
        cost = try_group(p, s, 2, cost, worthwhile_s)
    for deal in range(len(p.dealt)):
        for with_sum in range(2):
            for shard in range(p.shards):
                s.group[SLOTS, shard], s.group[DEVICES, shard] = middle + 1 + shard, p.dealt[deal, shard]
            s.group[SLOTS, p.shards], s.group[DEVICES, p.shards] = end, s.where[middle]
            cost = try_group(p, s, p.shards + with_sum, cost, worthwhile_s)
    return cost


@called
def _try_lm_head(p: Layout, s: Working, cost: float, worthwhile_s: float) -> float:
    """The shards of the LM head: one, half or all of a device's to another device, or all dealt anew."""
    first, stop = p.layers * per_layer_of(p), len(s.where)
    if first == stop:
        return cost
    for target in range(len(p.budgets)):
        cost = _try_run(p, s, first, stop, target, cost, worthwhile_s)
        for source in range(len(p.budgets)):
            cost = _try_some(p, s, 2 * p.layers, first, stop, source, target, cost, worthwhile_s)
    for deal in range(len(p.dealt_vocab)):
        for shard in range(stop - first):
            s.group[SLOTS, shard], s.group[DEVICES, shard] = first + shard, p.dealt_vocab[deal, shard]
        cost = try_group(p, s, stop - first, cost, worthwhile_s)
    return cost


@called
def _try_exchanges(p: Layout, s: Working, first: int, second: int, cost: float, worthwhile_s: float) -> float:
    """Two layers exchange their devices: as wholes, their attention halves, or their FFNs."""
    per_layer = per_layer_of(p)
    one, two = first * per_layer, second * per_layer
    attention = p.heads + 1
    for part in range(3):
        start, stop = (attention if part == 2 else 0), (attention if part == 1 else per_layer)
        count = stop - start
        for number in range(count):
            here, there = one + start + number, two + start + number
            s.group[SLOTS, number], s.group[DEVICES, number] = here, s.where[there]
            s.group[SLOTS, count + number], s.group[DEVICES, count + number] = there, s.where[here]
        cost = try_group(p, s, 2 * count, cost, worthwhile_s)
    return cost


@called
def _try_run(p: Layout, s: Working, first: int, stop: int, target: int, cost: float, worthwhile_s: float) -> float:
    """All blocks of a run of slots to one device."""
    for slot in range(first, stop):
        s.group[SLOTS, slot - first], s.group[DEVICES, slot - first] = slot, target
    return try_group(p, s, stop - first, cost, worthwhile_s)


@called
def _try_some(
    p: Layout,
    s: Working,
    row: int,
    first: int,
    stop: int,
    source: int,
    target: int,
    cost: float,
    worthwhile_s: float,
) -> float:
    """One, all or half of those blocks of a run of slots that are on one device, to another device."""
    if source == target or s.counts[row, source] == 0:
        return cost
    count = 0
    for slot in range(first, stop):
        if s.where[slot] == source:
            s.group[HERE, count] = slot
            count += 1
    for turn in range(3):
        start = (count - 1, 0, count // 2)[turn]
        if (turn == 1 and count == 1) or (turn == 2 and count < SPLIT_FROM):
            break
        for number in range(start, count):
            s.group[SLOTS, number - start], s.group[DEVICES, number - start] = s.group[HERE, number], target
        cost = try_group(p, s, count - start, cost, worthwhile_s)
    return cost
