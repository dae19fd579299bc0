"""Half-layer latencies, compiled: the schedule of `latency.half_layer_latency` over arrays, many at a time.

For searches that look at thousands of half-layers. A half-layer is a holder, a target and the number of units (heads,
or shards) on each device; the units of a half are alike. This is the second copy of the latency formula, beside
`latency.half_layer_latency`: it computes every figure with the same operations in the same order, and property tests
hold the two to 1e-12 of each other (`tests/unit/placement/test_cost_kernel.py`). Change both, or neither.
"""

from __future__ import annotations

import numpy as np

from testbed.placement.array_types import Floats, Ints
from testbed.placement.cost.machine_code import called, compiled, smallest_observation
from testbed.placement.cost.tables import (
    CASE_ROWS,
    DOWN,
    DOWN_DELAY,
    FIRST_HALF,
    HALF_ROWS,
    TARGET_ROW,
    UNIT_ROW,
    UP,
    UP_DELAY,
    HalfDemand,
    Network,
    Tables,
    demand_of,
    network_of,
    tables_of,
)

SCRATCH_ROWS = 8  # rows of working space, one column per device or message, that one evaluation uses


def scratch_for(tables: Tables) -> Floats:
    """Working space for evaluations; one per thread."""
    return np.zeros((SCRATCH_ROWS, max(2 * tables.rates.shape[1] + 1, tables.hops.shape[1])))


def half_batch(network: Network, demand: HalfDemand, holders: Ints, targets: Ints, counts: Ints) -> Floats:
    """Seconds of many half-layers of one kind: holders and targets (n,), counts (n, devices)."""
    tables = tables_of([(network, [demand])])
    found = np.empty(len(holders))
    _batch(tables, holders, targets, counts, scratch_for(tables), found)
    return found


def warm_up() -> None:
    """Compile the batches, too."""
    tables = tables_of([(network_of(smallest_observation()), [demand_of(1.0, [1.0, 1.0], [[0.0, 0.0]], [[0.0, 0.0]])])])
    nobody = np.zeros(0, np.int64)
    _batch(tables, nobody, nobody, np.zeros((0, 2), np.int64), scratch_for(tables), np.zeros(0))


@compiled
def _batch(tables: Tables, holders: Ints, targets: Ints, counts: Ints, scratch: Floats, found: Floats) -> None:
    for row in range(len(holders)):
        found[row] = half_seconds(tables, 0, 0, holders[row], targets[row], counts[row], counts[row], scratch)


@called
def half_seconds(
    tables: Tables, case: int, kind: int, holder: int, target: int, counts: Ints, sizes: Ints, scratch: Floats
) -> float:
    """Seconds of one half-layer, the mean over its lengths.

    `counts` has units per device, and `sizes` the column of `tables.bits` that each device's result has: the number of
    its units, or of its roots where the table is by roots. Both may be longer.
    """
    rates = tables.rates
    devices = rates.shape[1]
    base = case * CASE_ROWS
    unit = base + FIRST_HALF + kind * HALF_ROWS
    sends = _send_order(tables, case, kind, holder, target, counts, sizes, scratch)
    lengths = tables.lengths[kind]
    total = 0.0
    if tables.routed:
        for length in range(lengths):
            total += _over_paths(tables, case, kind, length, holder, target, counts, sizes, sends, scratch)
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
                occupies = tables.bits[kind, sizes[device]] / min(rates[base + UP, device], target_down)
                through = max(through, scratch[3, place]) + occupies
        total += max(x_there + own_s, through + tables.overhead_s) + target_s
    return total / lengths


@called
def _send_order(
    tables: Tables, case: int, kind: int, holder: int, target: int, counts: Ints, sizes: Ints, scratch: Floats
) -> int:
    """Row 0 of the scratch: to whom x is sent, longest remaining tail first, a pure residual last; how many."""
    sends = 0
    unit = case * CASE_ROWS + FIRST_HALF + kind * HALF_ROWS + UNIT_ROW
    for device in range(tables.rates.shape[1]):
        units = counts[device]
        if units == 0 or device == holder:
            continue
        tail = tables.rates[unit, device] * units
        if device != target:
            tail += _transfer_seconds(tables, case, device, target, tables.bits[kind, sizes[device]])
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


@called
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
    hop = tables.path_hops[first]
    if passes > 1 and hop == tables.path_hops[first + passes - 1]:
        seconds += max(0.0, bits / rate - tables.hops[2 * case + 1, hop])
    return seconds + tables.overhead_s


@called
def _over_paths(
    tables: Tables,
    case: int,
    kind: int,
    length: int,
    holder: int,
    target: int,
    counts: Ints,
    sizes: Ints,
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
        bits = tables.bits[kind, -1] if event < sends else tables.bits[kind, sizes[device]]
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
