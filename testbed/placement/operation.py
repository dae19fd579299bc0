"""What one operation asks of a device: its FLOPs and bytes, by format where the device tells formats apart.

An operation is a block's work for some new tokens, the embedding of tokens, or the LM head. The cost model, the
policies, the simulation and the workers' pacing all count here; `blocks.operation_seconds` turns counts into seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from testbed.device_model import PLAIN, DeviceModel
from testbed.placement.blocks import (
    WHOLE,
    Block,
    Kind,
    Partition,
    block_flops,
    embed_read_bytes,
    lm_head_flops,
    lm_head_read_bytes,
    seen_state_bytes,
    weight_bytes_by_format,
)
from testbed.shape import ModelShape


class Cost(NamedTuple):
    """An operation's FLOPs and bytes, and the same as a device's plain rates count them."""

    flops: float
    read_bytes: float
    counted_flops: float
    counted_bytes: float

    @property
    def counted(self) -> tuple[float, float]:
        """(FLOPs, bytes) for `operation_seconds` with the plain rates."""
        return self.counted_flops, self.counted_bytes


def block_cost(
    shape: ModelShape,
    block: Block,
    length: int,
    rows: int = 1,
    partition: Partition = WHOLE,
    model: DeviceModel = PLAIN,
) -> Cost:
    """The cost of `rows` new tokens of a block, the last one seeing `length` positions."""
    return _kind_cost(shape, block.kind, length if block.kind == "head" else 0, rows, partition, model)


@lru_cache(maxsize=1024)
def _kind_cost(shape: ModelShape, kind: Kind, length: int, rows: int, partition: Partition, model: DeviceModel) -> Cost:
    block = Block(kind, 0)
    flops = flops_by_format(shape, block, length, rows, partition)
    return cost_of(model, flops, weight_bytes_by_format(shape, kind, partition), seen_state_bytes(shape, block, length))


def cost_of(
    model: DeviceModel, flops: Mapping[str, float], weight_bytes: Mapping[str, float], kv_bytes: float = 0.0
) -> Cost:
    """The cost of an operation with these FLOPs and weights, by format, that reads this much of a KV cache."""
    return Cost(
        float(sum(flops.values())),
        float(sum(weight_bytes.values()) + kv_bytes),
        model.counted_flops(flops.items()),
        model.counted_bytes(weight_bytes.items(), kv_bytes),
    )


def flops_by_format(
    shape: ModelShape, block: Block, length: int, rows: int = 1, partition: Partition = WHOLE
) -> dict[str, float]:
    """The FLOPs of `block_flops` by the format of the numbers that are multiplied: of weights, or of a KV cache."""
    total = block_flops(shape, block, length, rows, partition)
    D, d, r = shape.width, shape.head_dim, shape.queries_per_group
    if block.kind == "head":
        products = {"qkv_weight": 2.0 * D * (r + 2) * d * rows}
        if partition.proj_rows:
            products["proj_weight"] = 2.0 * r * d * D * rows
        rest = shape.kv_format  # scores, and the weighted sum of values
    elif block.kind == "ffn":
        products = {"out_weight": 2.0 * D * (shape.ffn_width // partition.ffn_shards) * rows}
        rest = shape.format_of("ffn", "in_weight")
    elif block.kind == "sum":
        products, rest = {}, "float32"
    else:
        products, rest = {}, shape.format_of(block.kind, "rows" if block.kind == "vocab" else "weight")
    found = {rest: total - sum(products.values())}
    for name, flops in products.items():
        its_format = shape.format_of(block.kind, name)
        found[its_format] = found.get(its_format, 0.0) + flops
    return found


@lru_cache(maxsize=4096)
def embed_cost(shape: ModelShape, rows: int = 1, model: DeviceModel = PLAIN) -> Cost:
    """The cost of looking `rows` tokens up in the embedding, and their positions where these have a table."""
    return cost_of(model, {}, {shape.weights.tokens: embed_read_bytes(shape, rows)})


@lru_cache(maxsize=4096)
def lm_head_cost(shape: ModelShape, model: DeviceModel = PLAIN) -> Cost:
    """The cost of a whole LM head for one token."""
    its_format = shape.format_of("vocab", "rows")
    return cost_of(model, {its_format: lm_head_flops(shape)}, {its_format: lm_head_read_bytes(shape)})
