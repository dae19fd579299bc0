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

from testbed.placement.latency import OUTAGE_BPS, message_bits
from testbed.placement.observation import Hop, Observation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SCRATCH_ROWS = 8  # rows of working space, one column per device, that one evaluation uses


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as machine code, kept on disk where any place for it can be written."""
    try:
        return numba.njit(cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache folder is writable
        return numba.njit(error_model="numpy")(function)  # type: ignore[no-any-return]


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


def half_of(
    x_payload_bytes: float,
    result_payload_bytes: Sequence[float],
    unit_s: Sequence[Sequence[float]],
    target_s: Sequence[Sequence[float]],
) -> Half:
    """A half from payloads in bytes (results by number of units, from 0) and seconds per length and device."""
    bits = np.array([message_bits(payload) for payload in result_payload_bytes], np.float64)
    return Half(message_bits(x_payload_bytes), bits, np.array(unit_s, np.float64), np.array(target_s, np.float64))


def scratch_for(devices: int) -> Floats:
    """Working space for evaluations over this many devices; one per thread."""
    return np.zeros((SCRATCH_ROWS, 2 * devices + 1))


@compiled
def half_batch(network: Network, half: Half, holders: Ints, targets: Ints, counts: Ints) -> Floats:
    """Seconds of many half-layers: holders and targets (n,), counts (n, devices)."""
    devices = counts.shape[1]
    scratch = np.zeros((SCRATCH_ROWS, 2 * devices + 1))
    found = np.empty(len(holders))
    for row in range(len(holders)):
        found[row] = half_seconds(network, half, holders[row], targets[row], counts[row], scratch)
    return found


@compiled
def half_seconds(network: Network, half: Half, holder: int, target: int, counts: Ints, scratch: Floats) -> float:
    """Seconds of one half-layer, the mean over the half's sequence lengths; `counts` has units per device."""
    sends = _send_order(network, half, holder, target, counts, scratch)
    lengths = half.unit_s.shape[0]
    total = 0.0
    if network.routed:
        for length in range(lengths):
            total += _over_paths(network, half, length, holder, target, counts, sends, scratch)
        return total / lengths
    # Sending x does not depend on the length: when each device has it (row 2), and when the uplink is free again.
    x_at_target = -1.0
    uplink_free = 0.0
    x_occupies = 0.0
    target_down = network.down_bps[target]
    if sends:
        up, delay, bits = network.up_bps[holder], network.up_delay_s[holder], half.x_bits
        for turn in range(sends):
            device = int(scratch[0, turn])
            if device == target:
                x_at_target = uplink_free + delay + network.down_delay_s[target]
                x_occupies = bits / min(up, target_down)
            else:
                occupies = bits / min(up, network.down_bps[device])
                there_s = uplink_free + delay + network.down_delay_s[device]
                scratch[2, device] = there_s + occupies + network.overhead_s
            uplink_free += bits / up
    scratch[2, holder] = 0.0
    for length in range(lengths):
        total += _at_target(
            network, half, length, holder, target, counts, uplink_free, x_at_target, x_occupies, scratch
        )
    return total / lengths


@compiled
def _send_order(network: Network, half: Half, holder: int, target: int, counts: Ints, scratch: Floats) -> int:
    """Row 0 of the scratch: to whom x is sent, longest remaining tail first, a pure residual last; how many."""
    sends = 0
    for device in range(len(counts)):
        units = counts[device]
        if units == 0 or device == holder:
            continue
        tail = half.unit_s[0, device] * units
        if device != target:
            tail += _transfer_seconds(network, device, target, half.result_bits[units])
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
def _transfer_seconds(network: Network, source: int, target: int, bits: float) -> float:
    """Seconds of one message over an idle path, software overhead included."""
    if not network.routed:
        seconds = bits / min(network.up_bps[source], network.down_bps[target])
        seconds += network.up_delay_s[source]
        seconds += network.down_delay_s[target]
        return seconds + network.overhead_s
    first, hops = network.path_start[source, target], network.path_length[source, target]
    rate = np.inf
    for step in range(first, first + hops):
        rate = min(rate, network.hop_bps[network.path_hops[step]])
    seconds = bits / rate
    for step in range(first, first + hops):
        seconds += network.hop_delay_s[network.path_hops[step]]
    return seconds + network.overhead_s


@compiled
def _at_target(
    network: Network,
    half: Half,
    length: int,
    holder: int,
    target: int,
    counts: Ints,
    uplink_free: float,
    x_at_target: float,
    x_occupies: float,
    scratch: Floats,
) -> float:
    """The star's schedule from "x is on its way" on: only the target's downlink has a queue (rows 3 and 4)."""
    arriving = 0
    x_turn = x_at_target >= 0.0
    if x_turn:
        scratch[3, 0] = x_at_target
        scratch[4, 0] = -1.0
        arriving = 1
    own_s = 0.0
    target_delay = network.down_delay_s[target]
    for device in range(len(counts)):
        units = counts[device]
        if units == 0:
            continue
        seconds = half.unit_s[length, device] * units
        if device == target:
            own_s = seconds
            continue
        left = scratch[2, device] + seconds
        if device == holder and uplink_free > left:
            left = uplink_free
        first_byte = left + network.up_delay_s[device] + target_delay
        place = arriving
        while place > 0 and scratch[3, place - 1] > first_byte:
            scratch[3, place] = scratch[3, place - 1]
            scratch[4, place] = scratch[4, place - 1]
            place -= 1
        scratch[3, place] = first_byte
        scratch[4, place] = device
        arriving += 1
    target_s = half.target_s[length, target]
    if arriving == 0:
        return own_s + target_s
    through = 0.0
    x_there = 0.0
    target_down = network.down_bps[target]
    for place in range(arriving):
        device = int(scratch[4, place])
        if device < 0:
            through = max(through, scratch[3, place]) + x_occupies
            x_there = through + network.overhead_s
        else:
            occupies = half.result_bits[counts[device]] / min(network.up_bps[device], target_down)
            through = max(through, scratch[3, place]) + occupies
    return max(x_there + own_s, through + network.overhead_s) + target_s


@compiled
def _over_paths(
    network: Network, half: Half, length: int, holder: int, target: int, counts: Ints, sends: int, scratch: Floats
) -> float:
    """The routed schedule, event by event: a message's first byte comes to a link.

    Messages are columns: the x messages in send order, then one result per device in index order, so that the
    lower column goes first among equals. Rows: 2 the event's time (inf: not on its way), 3 hops passed, 4 the
    least rate so far, 5 the column's device; row 6 has the result column of a device.
    """
    devices = len(counts)
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
            own_s = half.unit_s[length, device] * units
            continue
        scratch[2, messages] = half.unit_s[length, device] * units if device == holder else np.inf
        scratch[5, messages] = device
        scratch[6, device] = messages
        messages += 1
    for message in range(messages):
        scratch[3, message] = 0.0
        scratch[4, message] = np.inf
    free = np.zeros(len(network.hop_bps))
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
        bits = half.x_bits if event < sends else half.result_bits[counts[device]]
        hop = network.path_hops[network.path_start[source, receiver] + passed]
        rate = min(scratch[4, event], network.hop_bps[hop])
        start = max(when, free[hop])
        through = start + bits / rate
        free[hop] = through
        if passed + 1 < network.path_length[source, receiver]:
            scratch[2, event] = start + network.hop_delay_s[hop]
            scratch[3, event] = passed + 1
            scratch[4, event] = rate
            continue
        scratch[2, event] = np.inf
        usable = through + network.hop_delay_s[hop] + network.overhead_s
        if receiver == target:
            all_there = max(all_there, usable)
            if event < sends:
                x_there = usable
        elif scratch[6, receiver] >= 0:
            scratch[2, int(scratch[6, receiver])] = usable + half.unit_s[length, receiver] * counts[receiver]
    return max(x_there + own_s, all_there) + half.target_s[length, target]
