"""Which part of the model's own tensors each tensor of a block is, and which parts of stored tensors that is.

A finer partition cuts the same tensors into smaller pieces, so it does not change the model. This module knows shapes
only: no files and no numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.placement.blocks import ATTENTION, Partition, tensors_of, vocab_rows
from testbed.shape import ModelShape

ONE_COLUMN = slice(0, 1)  # the columns of a vector, whose rows are its elements


@dataclass(frozen=True)
class Piece:
    """The place of a block's tensor in the model: some rows and columns of a tensor of a whole block.

    The rows are those of the slices, one slice after the other. Where they are fewer than the rows of the block's
    tensor, the rest of it stays zero.
    """

    kind: str
    index: int
    name: str
    dims: tuple[int, ...]  # of the whole tensor, (out, in) or (out,)
    rows: tuple[slice, ...]
    columns: slice


@dataclass(frozen=True)
class Part:
    """Some rows and columns of a stored tensor, (out, in) or (out,), whatever its order in the file is.

    A `transposed` tensor is stored as (in, out), so its rows here are its columns in the file.
    """

    name: str
    rows: slice
    columns: slice
    transposed: bool = False


def piece_of(shape: ModelShape, partition: Partition, kind: str, index: int, name: str) -> Piece:
    """The piece of the model's own tensors that holds the values of a block's tensor."""
    D, F, K = shape.width, shape.ffn_width, partition.ffn_shards
    if name in ("norm_weight", "norm_bias", "q_norm", "k_norm"):  # one for all heads, or all shards
        return _whole(shape, kind, 0, name)
    if kind == "sum":
        attention = index == ATTENTION
        there = shape.proj_bias if attention else shape.ffn_bias
        where = ("proj", 0, "bias") if attention else ("ffn", 0, "out_bias")
        return Piece(*where, (D,), (slice(0, D),) if there else (), ONE_COLUMN)
    if kind == "head" and name == "proj_weight":
        own = shape.queries_per_group * shape.head_dim
        dims = (D, shape.heads * shape.head_dim)
        return Piece("proj", 0, "weight", dims, (slice(0, D),), slice(index * own, (index + 1) * own))
    if kind == "vocab":
        rows = vocab_rows(shape, partition)
        table = "tokens" if shape.tied_embedding else "lm_head"
        own_rows = slice(index * rows, min(shape.vocab, (index + 1) * rows))
        return Piece("embed", 0, table, (shape.vocab, D), (own_rows,), slice(0, D))
    if kind == "ffn" and K > 1:
        first, end = index * F // K, (index + 1) * F // K
        if name == "out_weight":
            return Piece(kind, 0, name, (D, F), (slice(0, D),), slice(first, end))
        inner = 2 * F if shape.gated_ffn else F
        starts = range(0, inner, F)  # the gate's rows, and those that it gates
        own_slices = tuple(slice(start + first, start + end) for start in starts)
        if name == "in_bias":
            return Piece(kind, 0, name, (inner,), own_slices, ONE_COLUMN)
        return Piece(kind, 0, name, (inner, D), own_slices, slice(0, D))
    return _whole(shape, kind, index, name)


def _whole(shape: ModelShape, kind: str, index: int, name: str) -> Piece:
    dims = dict(tensors_of(shape, kind))[name]
    return Piece(kind, index, name, dims, (slice(0, dims[0]),), slice(0, dims[1]) if len(dims) > 1 else ONE_COLUMN)


def select(piece: Piece, wholes: Sequence[Part]) -> list[Part]:
    """The parts of stored tensors that make up a piece, where `wholes`, one after the other, make up its whole."""
    found = []
    for rows in piece.rows:
        start = 0  # of this whole's rows among the rows of all
        for part in wholes:
            end = start + part.rows.stop - part.rows.start
            low, high = max(rows.start, start), min(rows.stop, end)
            if low < high:
                first, column = part.rows.start + low - start, part.columns.start
                found.append(
                    Part(part.name, slice(first, first + high - low),
                         slice(column + piece.columns.start, column + piece.columns.stop), part.transposed)
                )  # fmt: skip
            start = end
    return found
