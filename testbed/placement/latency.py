"""How long things take: one block, one message, one half-layer.

`half_layer_latency` is the only latency formula of the package. A half-layer starts at the one device that
holds x (all else idle) and ends at one device, so a token's latency is exactly a sum of half-layers. The
simulator, the policies and the predictions all call it. This module knows rates and delays, not placements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from testbed.placement.blocks import Block, block_flops, block_read_bytes, operation_seconds, wire_bytes
from testbed.placement.observation import DeviceView, LinkView
from testbed.shape import ModelShape

OUTAGE_BPS = 8.0  # a rate of zero is emulated as 8 bit/s (DESIGN §5), so it is predicted as that too
STALLED_RATE = 1.0  # byte/s or FLOP/s of a device whose trace says zero; keeps every time finite


@lru_cache(maxsize=65536)
def message_bits(payload_bytes: float) -> float:
    """Bits that one message with this payload puts on a link, all headers included."""
    return wire_bytes(payload_bytes) * 8


def block_time(shape: ModelShape, block: Block, device: DeviceView, length: int, rows: int = 1) -> float:
    """Seconds `device` needs for `rows` new tokens of a block, the last one seeing `length` positions."""
    return operation_seconds(
        block_flops(shape, block, length, rows),
        block_read_bytes(shape, block, length),
        max(device.compute_flops, STALLED_RATE),
        max(device.streaming_Bps, STALLED_RATE),
    )


def transfer_seconds(source: LinkView, target: LinkView, payload_bytes: float, hop_overhead_s: float = 0.0) -> float:
    """Seconds from handing a message to an idle uplink until it can be used at the other end."""
    rate = max(min(source.up_bps, target.down_bps), OUTAGE_BPS)
    return message_bits(payload_bytes) / rate + source.up_delay_s + target.down_delay_s + hop_overhead_s


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
) -> float:
    """Seconds from "x is complete at `holder`, all else idle" to "the target's block is done".

    The attention half has one `Work` per device with heads, and proj's device as target; the FFN half has no
    `Work`, x is y, and x_order is the FFN's device alone, or nothing when proj is there too.

    - `holder` queues one x message per device of `x_order` on its uplink at time 0, in that order. Its own
      blocks start at time 0 too; its result message queues behind the x messages.
    - A message of W bits from i to j that starts on i's uplink at s occupies it until s + W / up(i). Its first
      byte is at j's port at s + up_delay(i) + down_delay(j); from then, or from when the messages that came to
      that port earlier are through, it occupies j's downlink for W / min(up(i), down(j)): cut-through, never
      done before the last byte has left and travelled. It can be used `hop_overhead_s` after that. Messages whose
      first bytes reach a port together go through x first, then in the order of `work`.
    - A device starts its work when its x can be used. The target's block starts when x, every result and the
      target's own work are there.

    Payloads in bytes; devices of `work` other than `holder` must be in `x_order`, and so must `target` unless
    it is the holder.
    """
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
