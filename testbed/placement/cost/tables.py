"""The cost model's inputs as arrays for the compiled kernel: networks, and what the halves of a layer demand.

Devices are indices, in the order of the observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.model import BULK_WIRE_RATIO, CostModel
from testbed.placement.latency import message_bits
from testbed.placement.observation import Hop, Observation
from testbed.placement.plan import VOCAB, HalfKind, halves_of, x_payload
from testbed.wire import OUTAGE_BPS


class Network(NamedTuple):
    """Rates in bit/s (at least OUTAGE_BPS), delays in seconds; paths only where `routed`."""

    up_bps: Floats  # (devices,)
    down_bps: Floats
    up_delay_s: Floats
    down_delay_s: Floats
    overhead_s: float
    routed: bool
    path_start: Ints  # (devices, devices): where the path i->j begins in `path_hops`
    path_length: Ints  # (devices, devices)
    path_hops: Ints  # numbers of directed links, path after path
    hop_bps: Floats  # (directed links,)
    hop_delay_s: Floats


class HalfDemand(NamedTuple):
    """What one kind of half-layer needs and sends, at one or more sequence lengths."""

    x_bits: float  # of the message with x, headers included
    result_bits: Floats  # (units + 1,): of one device's result message, by its number of units
    unit_s: Floats  # (lengths, devices): seconds of one unit
    target_s: Floats  # (lengths, devices): seconds of the target's block


def demand_of(
    x_payload_bytes: float,
    result_payload_bytes: Sequence[float],
    unit_s: Sequence[Sequence[float]],
    target_s: Sequence[Sequence[float]],
) -> HalfDemand:
    """A demand from payloads in bytes (results by number of units, from 0) and seconds per length and device."""
    bits = np.array([message_bits(payload) for payload in result_payload_bytes], np.float64)
    return HalfDemand(message_bits(x_payload_bytes), bits, np.array(unit_s, np.float64), np.array(target_s, np.float64))


def half_demand(model: CostModel, kind: HalfKind, by_roots: bool = False) -> HalfDemand:
    """The demand of one kind of half at the first and the last length of the model's interval, if these matter.

    With `by_roots`, results that are partial sums are given by their number of roots instead of units.
    """
    results = range(units_of(model, kind) + 1)
    by_roots = by_roots and kind.partial
    lengths = model.lengths if kind.work == "head" else model.lengths[:1]
    idle = (0.0,) * len(model.names)
    return demand_of(
        x_payload(model.shape),
        [model.result_payload(kind, count, count if by_roots else None) for count in results],
        [model.seconds(kind.work, length) if kind.work is not None else idle for length in lengths],
        [model.seconds(kind.target, length) if kind.target is not None else idle for length in lengths],
    )


def units_of(model: CostModel, kind: HalfKind) -> int:
    """How many units a half has: heads (KV groups), FFN shards or shards of the LM head; 0 of what is whole."""
    if kind.work == "head":
        return model.shape.kv_heads
    shards = model.partition.vocab_shards if kind.work == "vocab" else model.partition.ffn_shards
    return shards if shards > 1 else 0


def demands_of(model: CostModel, by_roots: bool = False) -> tuple[HalfDemand, ...]:
    """The demands of attention, FFN, return and LM head: what the kernel needs to know of them."""
    idle = [(0.0,) * len(model.names)]
    back = demand_of(x_payload(model.shape), [0.0], idle, idle)
    attention, ffn, lm_head = (half_demand(model, kind, by_roots) for kind in (*halves_of(model.partition), VOCAB))
    return attention, ffn, back, lm_head


def link_costs(model: CostModel, network: Network) -> tuple[Floats, Floats]:
    """Seconds per migrated byte of each directed link, and the delay of each path.

    A star's links are all uplinks, then all downlinks.
    """
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


def network_of(observation: Observation) -> Network:
    """The observation's network as arrays, devices in index order."""
    return _star(observation) if observation.paths is None else _routed(observation)


def _star(observation: Observation) -> Network:
    links = [observation.links[view.name] for view in observation.devices]
    nowhere = np.zeros((0, 0), np.int64)
    return Network(
        np.array([max(link.up_bps, OUTAGE_BPS) for link in links], np.float64),
        np.array([max(link.down_bps, OUTAGE_BPS) for link in links], np.float64),
        np.array([link.up_delay_s for link in links], np.float64),
        np.array([link.down_delay_s for link in links], np.float64),
        observation.hop_overhead_s,
        False,
        nowhere,
        nowhere,
        np.zeros(0, np.int64),
        np.zeros(0),
        np.zeros(0),
    )


def _routed(observation: Observation) -> Network:
    names = [view.name for view in observation.devices]
    numbers: dict[Hop, int] = {}
    rates: list[float] = []
    delays: list[float] = []
    hops: list[int] = []
    start, length = (np.zeros((len(names), len(names)), np.int64) for _ in range(2))
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            if i == j:
                continue
            path = observation.path(source, target)
            start[i, j], length[i, j] = len(hops), len(path)
            for leg in path:
                if leg.hop not in numbers:
                    numbers[leg.hop] = len(rates)
                    rates.append(max(leg.rate_bps, OUTAGE_BPS))
                    delays.append(leg.delay_s)
                hops.append(numbers[leg.hop])
    unused = np.zeros(0)
    return Network(
        unused,
        unused,
        unused,
        unused,
        observation.hop_overhead_s,
        True,
        start,
        length,
        np.array(hops, np.int64),
        np.array(rates, np.float64),
        np.array(delays, np.float64),
    )


class Tables(NamedTuple):
    """Networks and halves in few arrays, because every array costs time at each call.

    A case is a network and its kinds of half; case c has `CASE_ROWS` rows of `rates` from `c * CASE_ROWS` on: uplink
    and downlink rate and delay, then four for each kind: seconds of a unit and of the target, each at two lengths.
    """

    rates: Floats  # (cases * CASE_ROWS, devices)
    bits: Floats  # (kinds, units + 2): results by number of units; the last column is x's
    lengths: Ints  # (kinds,): 1 or 2 lengths that count
    overhead_s: float
    routed: bool
    path_start: Ints
    path_length: Ints
    path_hops: Ints
    hops: Floats  # (2 * cases, directed links): rate, delay


UP, DOWN, UP_DELAY, DOWN_DELAY, FIRST_HALF = range(5)  # rows of a case
UNIT_ROW, TARGET_ROW, HALF_ROWS = 0, 2, 4  # rows of a kind of half
KINDS = 4
CASE_ROWS = FIRST_HALF + KINDS * HALF_ROWS


def tables_of(cases: Sequence[tuple[Network, Sequence[HalfDemand]]]) -> Tables:
    """The tables of cases with the same devices, routes and messages, but their own rates, delays and seconds."""
    network, halves = cases[0]
    devices = halves[0].unit_s.shape[1]
    rates = np.zeros((len(cases) * CASE_ROWS, devices))
    bits = np.zeros((KINDS, max(len(half.result_bits) for half in halves) + 1))
    for kind, half in enumerate(halves):
        bits[kind, : len(half.result_bits)] = half.result_bits
        bits[kind, -1] = half.x_bits
    for number, (there, kinds) in enumerate(cases):
        first = number * CASE_ROWS
        if not there.routed:
            rates[first : first + FIRST_HALF] = there.up_bps, there.down_bps, there.up_delay_s, there.down_delay_s
        for kind, half in enumerate(kinds):
            row = first + FIRST_HALF + kind * HALF_ROWS
            rates[row : row + TARGET_ROW] = half.unit_s
            rates[row + TARGET_ROW : row + HALF_ROWS] = half.target_s
    lengths = np.array([len(half.unit_s) for half in halves], np.int64)
    hops = np.array([row for there, _ in cases for row in (there.hop_bps, there.hop_delay_s)])
    paths = network.path_start, network.path_length, network.path_hops
    return Tables(rates, bits, lengths, network.overhead_s, network.routed, *paths, hops)
