"""`cost: paper`: the delays of arXiv 2505.02533, beside the event schedule by which everything else is judged.

The paper's inference delay of a token is that of the slowest device with heads, then proj's, then the FFN's. A device
with heads receives x, computes its heads one after another and sends their results. A transfer takes bytes over rate,
and computing takes operations over operations per second. So links have no delays, no headers and no queues, memory has
no bandwidth, and what is around the layer (embedding, the way home, LM head) takes no time. A migration takes bytes
over rate too. The simulation alone knows this formula, and only for one layer (docs/adr/0028).

What the paper leaves open, and what was chosen: transfers from and to different devices take place at once; x comes
from the source; the operations of a block are those of this package, with cached keys and values; all blocks that
leave or enter a device share its link.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.placement.blocks import Block, Partition, block_flops
from testbed.placement.latency import STALLED_RATE, Work
from testbed.placement.observation import DeviceView, Observation, path_rate_bps
from testbed.shape import ModelShape
from testbed.wire import OUTAGE_BPS


def compute_seconds(
    shape: ModelShape, block: Block, devices: Sequence[DeviceView], length: int, rows: int, partition: Partition
) -> tuple[float, ...]:
    """Seconds of a block on each device: its operations over the device's operations per second."""
    flops = block_flops(shape, block, length, rows, partition)
    return tuple(flops / max(view.compute_flops, STALLED_RATE) for view in devices)


def transfer(observation: Observation, source: str, target: str, payload_bytes: float) -> float:
    """Seconds of a message: its bytes over the rate of its path, and nothing within one device."""
    if source == target:
        return 0.0
    return payload_bytes * 8 / max(path_rate_bps(observation.path(source, target)), OUTAGE_BPS)


def half_seconds(
    observation: Observation, holder: str, x_payload: float, work: Sequence[Work], target: str, target_seconds: float
) -> float:
    """Seconds of a half-layer: the slowest device with work, or x's way where there is none, and then the target."""
    slowest = max(
        (
            transfer(observation, holder, item.device, x_payload)
            + item.seconds
            + transfer(observation, item.device, target, item.payload_bytes)
            for item in work
        ),
        default=transfer(observation, holder, target, x_payload),
    )
    return slowest + target_seconds
