"""Half-layer latencies, compiled: the schedule of `latency.half_layer_latency` over arrays, many at a time.

For searches that look at thousands of half-layers. Devices are indices, a half-layer is a holder, a target and the
number of units (heads, or FFN shards) on each device; the units of a half are alike. Every figure is computed with
the same operations in the same order as in `latency`, and tested to be the same. Importing this module loads numba:
import it only where it is used. Machine code is kept beside this file, or under the user's cache folder where that
is read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from testbed.placement.cost.latency import OUTAGE_BPS, message_bits
from testbed.placement.observation import Hop, Observation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SCRATCH_ROWS = 8  # rows of working space, one column per device, that one evaluation uses


OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk where any place for it can be written.

    Without numba's reference counting, because counting the arrays of its tuples would cost each call a hundred
    times what most of these functions do; so a compiled function cannot make arrays, only use those it is given.
    """
    try:
        return numba.njit(cache=True, **OPTIONS)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache folder is writable
        return numba.njit(**OPTIONS)(function)  # type: ignore[no-any-return]


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of compiled functions, put in where it is used: passing large tuples would take longer than it does."""
    return numba.njit(inline="always", **OPTIONS)(function)  # type: ignore[no-any-return]


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


class Half(NamedTuple):
    """What one kind of half-layer needs and sends, at one or more sequence lengths."""

    x_bits: float  # of the message with x, headers included
    result_bits: Floats  # (units + 1,): of one device's result message, by its number of units
    unit_s: Floats  # (lengths, devices): seconds of one unit
    target_s: Floats  # (lengths, devices): seconds of the target's block


def network_of(observation: Observation) -> Network:
    """The observation's network as arrays, devices in index order."""
    names = [view.name for view in observation.devices]
    devices, overhead_s = len(names), observation.hop_overhead_s
    if observation.paths is None:
        links = [observation.links[name] for name in names]
        up = np.array([max(link.up_bps, OUTAGE_BPS) for link in links], np.float64)
        down = np.array([max(link.down_bps, OUTAGE_BPS) for link in links], np.float64)
        up_delay = np.array([link.up_delay_s for link in links], np.float64)
        down_delay = np.array([link.down_delay_s for link in links], np.float64)
        none, nowhere = np.zeros(0, np.int64), np.zeros((0, 0), np.int64)
        no_rates = np.zeros(0)
        return Network(
            up, down, up_delay, down_delay, overhead_s, False, nowhere, nowhere, none, no_rates, no_rates.copy()
        )
    numbers: dict[Hop, int] = {}
    rates: list[float] = []
    delays: list[float] = []
    hops: list[int] = []
    start, length = np.zeros((devices, devices), np.int64), np.zeros((devices, devices), np.int64)
    for i, source in enumerate(names):
        for j, target in enumerate(names):
            if i == j:
                continue
            path = observation.paths[source, target]
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
        unused.copy(),
        unused.copy(),
        unused.copy(),
        overhead_s,
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


def tables_of(cases: Sequence[tuple[Network, Sequence[Half]]]) -> Tables:
    """Cases as tables; all have the same devices, routes and messages, only rates, delays and seconds differ."""
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


def half_of(
    x_payload_bytes: float,
    result_payload_bytes: Sequence[float],
    unit_s: Sequence[Sequence[float]],
    target_s: Sequence[Sequence[float]],
) -> Half:
    """A half from payloads in bytes (results by number of units, from 0) and seconds per length and device."""
    bits = np.array([message_bits(payload) for payload in result_payload_bytes], np.float64)
    return Half(message_bits(x_payload_bytes), bits, np.array(unit_s, np.float64), np.array(target_s, np.float64))


def scratch_for(tables: Tables) -> Floats:
    """Working space for evaluations; one per thread."""
    return np.zeros((SCRATCH_ROWS, max(2 * tables.rates.shape[1] + 1, tables.hops.shape[1])))


def half_batch(network: Network, half: Half, holders: Ints, targets: Ints, counts: Ints) -> Floats:
    """Seconds of many half-layers: holders and targets (n,), counts (n, devices)."""
    return batch(tables_of([(network, [half])]), 0, 0, holders, targets, counts)


def batch(tables: Tables, case: int, kind: int, holders: Ints, targets: Ints, counts: Ints) -> Floats:
    """Seconds of many half-layers of one case and kind."""
    found = np.empty(len(holders))
    _batch(tables, case, kind, holders, targets, counts, scratch_for(tables), found)
    return found


@compiled
def _batch(
    tables: Tables,
    case: int,
    kind: int,
    holders: Ints,
    targets: Ints,
    counts: Ints,
    scratch: Floats,
    found: Floats,
) -> None:
    for row in range(len(holders)):
        found[row] = half_seconds(tables, case, kind, holders[row], targets[row], counts[row], scratch)


@compiled
def half_seconds(
    tables: Tables, case: int, kind: int, holder: int, target: int, counts: Ints, scratch: Floats
) -> float:
    """Seconds of one half-layer, the mean over its lengths; `counts` has units per device, and may be longer."""
    rates = tables.rates
    devices = rates.shape[1]
    base = case * CASE_ROWS
    unit = base + FIRST_HALF + kind * HALF_ROWS
    sends = _send_order(tables, case, kind, holder, target, counts, scratch)
    lengths = tables.lengths[kind]
    total = 0.0
    if tables.routed:
        for length in range(lengths):
            total += _over_paths(tables, case, kind, length, holder, target, counts, sends, scratch)
        return total / lengths
    # Sending x does not depend on the length: when each device has it (row 2), and when the uplink is free again.
    x_at_target = -1.0
    uplink_free = 0.0
    x_occupies = 0.0
    up, delay, bits = rates[base + UP, holder], rates[base + UP_DELAY, holder], tables.bits[kind, -1]
    target_down, target_delay = rates[base + DOWN, target], rates[base + DOWN_DELAY, target]
    for turn in range(sends):
        device = int(scratch[0, turn])
        if device == target:
            x_at_target = uplink_free + delay + target_delay
            x_occupies = bits / min(up, target_down)
        else:
            occupies = bits / min(up, rates[base + DOWN, device])
            there_s = uplink_free + delay + rates[base + DOWN_DELAY, device]
            scratch[2, device] = there_s + occupies + tables.overhead_s
        uplink_free += bits / up
    scratch[2, holder] = 0.0
    for length in range(lengths):
        # Only the target's downlink has a queue: first bytes (row 3) and their devices (row 4), in order.
        arriving = 0
        if x_at_target >= 0.0:
            scratch[3, 0] = x_at_target
            scratch[4, 0] = -1.0
            arriving = 1
        own_s = 0.0
        for device in range(devices):
            units = counts[device]
            if units == 0:
                continue
            seconds = rates[unit + UNIT_ROW + length, device] * units
            if device == target:
                own_s = seconds
                continue
            left = scratch[2, device] + seconds
            if device == holder and uplink_free > left:
                left = uplink_free
            first_byte = left + rates[base + UP_DELAY, device] + target_delay
            place = arriving
            while place > 0 and scratch[3, place - 1] > first_byte:
                scratch[3, place] = scratch[3, place - 1]
                scratch[4, place] = scratch[4, place - 1]
                place -= 1
            scratch[3, place] = first_byte
            scratch[4, place] = device
            arriving += 1
        target_s = rates[unit + TARGET_ROW + length, target]
        if arriving == 0:
            total += own_s + target_s
            continue
        through = 0.0
        x_there = 0.0
        for place in range(arriving):
            device = int(scratch[4, place])
            if device < 0:
                through = max(through, scratch[3, place]) + x_occupies
                x_there = through + tables.overhead_s
            else:
                occupies = tables.bits[kind, counts[device]] / min(rates[base + UP, device], target_down)
                through = max(through, scratch[3, place]) + occupies
        total += max(x_there + own_s, through + tables.overhead_s) + target_s
    return total / lengths


@compiled
def _send_order(tables: Tables, case: int, kind: int, holder: int, target: int, counts: Ints, scratch: Floats) -> int:
    """Row 0 of the scratch: to whom x is sent, longest remaining tail first, a pure residual last; how many."""
    sends = 0
    unit = case * CASE_ROWS + FIRST_HALF + kind * HALF_ROWS + UNIT_ROW
    for device in range(tables.rates.shape[1]):
        units = counts[device]
        if units == 0 or device == holder:
            continue
        tail = tables.rates[unit, device] * units
        if device != target:
            tail += _transfer_seconds(tables, case, device, target, tables.bits[kind, units])
        place = sends
        while place > 0 and scratch[1, place - 1] < tail:
            scratch[0, place] = scratch[0, place - 1]
            scratch[1, place] = scratch[1, place - 1]
            place -= 1
        scratch[0, place] = device
        scratch[1, place] = tail
        sends += 1
    if target != holder and counts[target] == 0:
        scratch[0, sends] = target
        sends += 1
    return sends


@compiled
def _transfer_seconds(tables: Tables, case: int, source: int, target: int, bits: float) -> float:
    """Seconds of one message over an idle path, software overhead included."""
    if not tables.routed:
        rates, base = tables.rates, case * CASE_ROWS
        seconds = bits / min(rates[base + UP, source], rates[base + DOWN, target])
        seconds += rates[base + UP_DELAY, source]
        seconds += rates[base + DOWN_DELAY, target]
        return seconds + tables.overhead_s
    first, passes = tables.path_start[source, target], tables.path_length[source, target]
    rate = np.inf
    for step in range(first, first + passes):
        rate = min(rate, tables.hops[2 * case, tables.path_hops[step]])
    seconds = bits / rate
    for step in range(first, first + passes):
        seconds += tables.hops[2 * case + 1, tables.path_hops[step]]
    return seconds + tables.overhead_s


@compiled
def _over_paths(
    tables: Tables,
    case: int,
    kind: int,
    length: int,
    holder: int,
    target: int,
    counts: Ints,
    sends: int,
    scratch: Floats,
) -> float:
    """The routed schedule, event by event: a message's first byte comes to a link.

    Messages are columns: the x messages in send order, then one result per device in index order, so that the
    lower column goes first among equals. Rows: 2 the event's time (inf: not on its way), 3 hops passed, 4 the
    least rate so far, 5 the column's device; row 6 has the result column of a device, row 7 when a link is free.
    """
    rates = tables.rates
    devices = rates.shape[1]
    unit = case * CASE_ROWS + FIRST_HALF + kind * HALF_ROWS + length
    messages = sends
    own_s = 0.0
    for turn in range(sends):
        scratch[2, turn] = 0.0
        scratch[5, turn] = scratch[0, turn]
    for device in range(devices):
        units = counts[device]
        scratch[6, device] = -1.0
        if units == 0:
            continue
        if device == target:
            own_s = rates[unit + UNIT_ROW, device] * units
            continue
        scratch[2, messages] = rates[unit + UNIT_ROW, device] * units if device == holder else np.inf
        scratch[5, messages] = device
        scratch[6, device] = messages
        messages += 1
    for message in range(messages):
        scratch[3, message] = 0.0
        scratch[4, message] = np.inf
    free = scratch[7]
    free[:] = 0.0
    x_there = 0.0
    all_there = 0.0
    while True:
        event, when = -1, np.inf
        for message in range(messages):
            if scratch[2, message] < when:
                event, when = message, scratch[2, message]
        if event < 0:
            break
        device, passed = int(scratch[5, event]), int(scratch[3, event])
        source, receiver = (holder, device) if event < sends else (device, target)
        bits = tables.bits[kind, -1] if event < sends else tables.bits[kind, counts[device]]
        hop = tables.path_hops[tables.path_start[source, receiver] + passed]
        rate = min(scratch[4, event], tables.hops[2 * case, hop])
        start = max(when, free[hop])
        through = start + bits / rate
        free[hop] = through
        if passed + 1 < tables.path_length[source, receiver]:
            scratch[2, event] = start + tables.hops[2 * case + 1, hop]
            scratch[3, event] = passed + 1
            scratch[4, event] = rate
            continue
        scratch[2, event] = np.inf
        usable = through + tables.hops[2 * case + 1, hop] + tables.overhead_s
        if receiver == target:
            all_there = max(all_there, usable)
            if event < sends:
                x_there = usable
        elif scratch[6, receiver] >= 0:
            scratch[2, int(scratch[6, receiver])] = usable + rates[unit + UNIT_ROW, receiver] * counts[receiver]
    return max(x_there + own_s, all_there) + rates[unit + TARGET_ROW, target]
