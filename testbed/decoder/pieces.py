"""Which part of the model's own tensors each tensor of a block is.

A finer partition cuts the same tensors into smaller pieces, so it does not change the model. This module knows shapes
only: no files and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.placement.blocks import ATTENTION, Partition, vocab_rows
from testbed.shape import ModelShape


@dataclass(frozen=True)
class Piece:
    """The place of a block's tensor in the model: a whole tensor of a block, or some of its rows or columns."""

    kind: str
    index: int
    name: str
    dims: tuple[int, ...] = ()  # of the whole tensor; () if the block's own tensor is the whole
    first_row: int = 0  # the block's tensor has the number of rows; rows past the end of the whole stay zero
    columns: tuple[slice, ...] = ()  # () means all columns


def piece_of(shape: ModelShape, partition: Partition, kind: str, index: int, name: str) -> Piece:
    """The piece of the model's own tensors that holds the values of a block's tensor."""
    D, F, K = shape.width, shape.ffn_width, partition.ffn_shards
    if name.startswith("norm"):
        return Piece(kind, 0, name)
    if kind == "sum":
        return Piece("proj", 0, "bias") if index == ATTENTION else Piece("ffn", 0, "out_bias")
    if kind == "head" and name == "proj_weight":
        own = shape.queries_per_group * shape.head_dim
        return Piece("proj", 0, "weight", (shape.heads * shape.head_dim, D), index * own)
    if kind == "vocab":
        whole = "tokens" if shape.tied_embedding else "lm_head"
        return Piece("embed", 0, whole, (shape.vocab, D), index * vocab_rows(shape, partition))
    if kind == "ffn" and K > 1:
        own, first = F // K, index * F // K
        if name == "out_weight":
            return Piece(kind, 0, name, (F, D), first)
        starts = range(first, (2 if shape.gated_ffn else 1) * F, F)  # the gate and up matrices stand side by side
        columns = tuple(slice(start, start + own) for start in starts)
        return Piece(kind, 0, name, (D, len(columns) * F)[name == "in_bias" :], 0, columns)
    return Piece(kind, index, name)
