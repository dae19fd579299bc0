"""How long one block, one message and one half-layer take.

`half_layer_latency` defines latency. A half-layer begins at the one device that holds x, with all else idle, and ends
at one device, so a token's latency is exactly a sum of half-layers. Policies, predictions and the simulation call it.
The searches that look at thousands of half-layers use a compiled copy, `cost.kernel`; property tests hold the two to
1e-12 of each other. Change both, or neither. This module knows rates and delays, not placements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import NamedTuple

from testbed.placement.blocks import WHOLE, Block, Partition, operation_seconds, wire_bytes
from testbed.placement.observation import DeviceView, Hop, LinkView, Path
from testbed.placement.operation import Cost, block_cost
from testbed.shape import ModelShape
from testbed.wire import OUTAGE_BPS

STALLED_RATE = 1.0  # byte/s or FLOP/s of a device whose trace says zero, so that every time is finite


@lru_cache(maxsize=65536)
def message_bits(payload_bytes: float) -> float:
    """Bits that one message with this payload puts on a link, all headers included."""
    return wire_bytes(payload_bytes) * 8


def cost_seconds(cost: Cost, device: DeviceView) -> float:
    """Seconds of an operation whose cost was counted with the device's model, at the device's present rates."""
    return operation_seconds(
        cost.counted_flops,
        cost.counted_bytes,
        max(device.compute_flops, STALLED_RATE),
        max(device.streaming_Bps, STALLED_RATE),
        device.model.barrier_s,
    )


def block_time(
    shape: ModelShape, block: Block, device: DeviceView, length: int, rows: int = 1, partition: Partition = WHOLE
) -> float:
    """Seconds `device` needs for `rows` new tokens of a block, the last one seeing `length` positions."""
    return block_times(shape, block, (device,), length, rows, partition)[0]


def block_times(
    shape: ModelShape,
    block: Block,
    devices: Sequence[DeviceView],
    length: int,
    rows: int = 1,
    partition: Partition = WHOLE,
) -> tuple[float, ...]:
    """`block_time` on each of some devices; the cost is counted once for all that share a model."""
    costs: dict[int, Cost] = {}
    found = []
    for device in devices:
        cost = costs.get(id(device.model))
        if cost is None:
            cost = costs[id(device.model)] = block_cost(shape, block, length, rows, partition, device.model)
        found.append(cost_seconds(cost, device))
    return tuple(found)


def transfer_seconds(path: Path, payload_bytes: float, hop_overhead_s: float = 0.0) -> float:
    """Seconds from handing a message to an idle path until it can be used at the other end.

    Where the path passes one medium twice, the second time begins when the last byte has passed the first time.
    """
    seconds = occupied = message_bits(payload_bytes) / max(min(leg.rate_bps for leg in path), OUTAGE_BPS)
    for leg in path:
        seconds += leg.delay_s
    if path[0].hop == path[-1].hop and len(path) > 1:
        seconds += max(0.0, occupied - path[0].delay_s)
    return seconds + hop_overhead_s


class Work(NamedTuple):
    """What one device does in a half-layer between receiving x and sending its result to the target."""

    device: str
    seconds: float  # all its blocks of this half-layer, one after another
    payload_bytes: float  # its result, one message


def half_layer_latency(
    links: Mapping[str, LinkView],
    hop_overhead_s: float,
    holder: str,
    x_order: Sequence[str],
    x_payload_bytes: float,
    work: Sequence[Work],
    target: str,
    target_seconds: float,
    paths: Mapping[tuple[str, str], Path] | None = None,
) -> float:
    """Seconds from "x is complete at `holder`, all else idle" to "the target's block is done".

    The attention half has one `Work` per device with heads, and the device of proj (or of the sum) as its target. The
    FFN half has one `Work` per device with shards, and the sum's device as its target. With a whole FFN it has no
    `Work`; then x is y, and `x_order` is the FFN's device alone, or empty when proj is there too.

    - At time 0 `holder` queues one x message for each device of `x_order`, in that order, on the first links of their
      paths. Its own blocks start at time 0 too. Its result message queues behind the x messages.
    - A message of W bits occupies every directed link of its path. A link carries one message at a time, in the order
      in which their first bytes arrive. A message that starts on the k-th link at s occupies it for W / (the least rate
      of the first k links), and its first byte is at the next link at s + the k-th link's delay (cut-through). When its
      last byte has left the last link, it arrives that link's delay later, and can be used `hop_overhead_s` after that.
      Where first bytes reach a link together, x messages go first, in send order, then results in the order of `work`.
      A medium that stations share is one link, which a message from station to station passes twice.
    - A device starts its work when its x can be used. The target's block starts when x, every result and the
      target's own work are there.

    Payloads are in bytes. `x_order` must have all devices of `work` but `holder`, and `target` unless it is the holder.
    `paths` has the path of every pair. Without it the network is a star, with one link of `links` per device. A star
    needs no events, because only the holder's uplink and the target's downlink ever have a queue; tests compare both.
    """
    if paths is not None:
        ends = _over_paths(paths, hop_overhead_s, (holder, target), x_order, x_payload_bytes, work)
        return ends + target_seconds
    there = links[target]
    target_down, target_delay = max(there.down_bps, OUTAGE_BPS), there.down_delay_s
    at_target: list[tuple[float, int, float]] = []  # (first byte at the target's port, turn, downlink occupancy)
    ready = {holder: 0.0}  # when x can be used
    uplink_free = 0.0
    if x_order:
        link = links[holder]
        bits, up, delay = message_bits(x_payload_bytes), max(link.up_bps, OUTAGE_BPS), link.up_delay_s
        for device in x_order:
            if device == target:
                at_target.append((uplink_free + delay + target_delay, -1, bits / min(up, target_down)))
            else:
                there = links[device]
                occupancy = bits / min(up, max(there.down_bps, OUTAGE_BPS))
                ready[device] = uplink_free + delay + there.down_delay_s + occupancy + hop_overhead_s
            uplink_free += bits / up
    own_seconds = 0.0
    for turn, (device, seconds, payload_bytes) in enumerate(work):
        if device == target:
            own_seconds = seconds
            continue
        link = links[device]
        bits, up = message_bits(payload_bytes), max(link.up_bps, OUTAGE_BPS)
        left = ready[device] + seconds
        if device == holder and uplink_free > left:
            left = uplink_free
        at_target.append((left + link.up_delay_s + target_delay, turn, bits / min(up, target_down)))
    if not at_target:
        return own_seconds + target_seconds
    at_target.sort()
    through = 0.0
    x_there = 0.0
    for first_byte, turn, occupancy in at_target:
        through = max(through, first_byte) + occupancy
        if turn < 0:
            x_there = through + hop_overhead_s
    return max(x_there + own_seconds, through + hop_overhead_s) + target_seconds


def _over_paths(
    paths: Mapping[tuple[str, str], Path],
    hop_s: float,
    ends: tuple[str, str],
    x_order: Sequence[str],
    x_payload: float,
    work: Sequence[Work],
) -> float:
    """When the target of (holder, target) has everything, event by event: a message's first byte comes to a link.

    x messages have negative turns, results the number of their `Work`.
    """
    holder, target = ends
    sends = {
        turn: (paths[item.device, target], message_bits(item.payload_bytes))
        for turn, item in enumerate(work)
        if item.device != target
    }
    turns = {work[turn].device: turn for turn in sends}
    coming: list[tuple[float, int, int, float]] = []  # (when, turn, links passed, least rate so far)
    x_bits = message_bits(x_payload) if x_order else 0.0
    for turn, device in enumerate(x_order, -len(x_order)):
        sends[turn] = (paths[holder, device], x_bits)
        coming.append((0.0, turn, 0, math.inf))
    if holder in turns:
        heappush(coming, (work[turns[holder]].seconds, turns[holder], 0, math.inf))
    free: dict[Hop, float] = {}
    x_there = all_there = 0.0
    while coming:
        when, turn, passed, rate = heappop(coming)
        path, bits = sends[turn]
        hop, rate_bps, delay = path[passed]
        rate = min(rate, max(rate_bps, OUTAGE_BPS))
        start = max(when, free.get(hop, 0.0))
        free[hop] = through = start + bits / rate
        if passed + 1 < len(path):
            heappush(coming, (start + delay, turn, passed + 1, rate))
            continue
        usable = through + delay + hop_s
        receiver = target if turn >= 0 else x_order[turn]
        if receiver == target:
            all_there = max(all_there, usable)
            x_there = usable if turn < 0 else x_there
        elif receiver in turns:
            heappush(coming, (usable + work[turns[receiver]].seconds, turns[receiver], 0, math.inf))
    own_seconds = next((item.seconds for item in work if item.device == target), 0.0)
    return max(x_there + own_seconds, all_there)
