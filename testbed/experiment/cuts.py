"""Checks that no matrix and no cut of it ends within a block of numbers that share a scale."""

from __future__ import annotations

from collections.abc import Callable

from testbed.errors import ConfigError
from testbed.formats import FORMATS
from testbed.placement.blocks import Partition, tensors_of
from testbed.shape import ModelShape, role_of


def check_rows(shape: ModelShape, where: str) -> None:
    """Raise ConfigError if the rows of a role's matrices are no whole blocks of its format."""
    for kind in ("head", "proj", "ffn", "embed"):
        for name, dims in tensors_of(shape, kind):
            held = FORMATS[shape.format_of(kind, name)]
            if len(dims) > 1 and dims[1] % held.block:
                raise ConfigError(
                    f"{where}: model.format is {held.name}, whose blocks are {held.block} numbers of one row, but the "
                    f"rows of {role_of(kind, name)} of {shape.name} have {dims[1]}: use float16, bfloat16 or float32"
                )


def check_cuts(shape: ModelShape, partition: Partition, where: Callable[[str], str]) -> None:
    """Raise ConfigError if a partition cuts through a block; `where` is the name in errors of one of its keys."""
    own, held = shape.queries_per_group * shape.head_dim, FORMATS[shape.weights.proj]
    if partition.proj_rows and own % held.block:
        raise ConfigError(
            f"{where('proj_rows')}: partition.proj_rows would give each head {own} numbers of every row of proj, but "
            f"in {held.name} a block is {held.block} of them and cannot be cut: use proj_rows: false"
        )
    own, held = shape.ffn_width // partition.ffn_shards, FORMATS[shape.weights.ffn_out]
    if own % held.block:
        raise ConfigError(
            f"{where('ffn_shards')}: partition.ffn_shards is {partition.ffn_shards}, which would give each shard {own} "
            f"numbers of every row of ffn_out, but in {held.name} a block is {held.block} of them and cannot be cut: "
            "use fewer shards"
        )
