"""The sources of weights: a checkpoint, or a seed.

A source fills the tensors of one block in place, in the formats that they have, so a device reads only the blocks that
it holds. The names and shapes of the tensors are those of `testbed.placement.blocks.tensors_of`; norms and biases are
one row.
"""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

import numpy as np
from numpy.random import PCG64

from testbed.decoder.kernels import Floats, Packed, quantise
from testbed.decoder.pieces import ONE_COLUMN, Piece, piece_of
from testbed.decoder.stored import StoredModel
from testbed.decoder.stored_weights import StoredWeights
from testbed.formats import packed_bytes
from testbed.placement.blocks import WHOLE, Partition
from testbed.shape import ModelShape

Tensors = dict[str, Packed]

_MEAN_LEVEL = (2**16 - 1) / 2  # of a uniform number of 16 bits
_LEVEL_DEVIATION = math.sqrt((2**32 - 1) / 12)
_COPY_BYTES = 1 << 18  # copied at a time, because a device's memory limit has no room for a second copy of a tensor


class WeightSource(Protocol):
    """A source of weights for blocks of any kind, and for the pinned `embed` on the source device."""

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill the named tensors of one block, which are all zeros, in place."""


def write_rows(tensor: Packed, first: int, values: Floats) -> None:
    """Write rows (n, columns) of float32 numbers into a tensor, from its row `first` on, in the tensor's format."""
    row = packed_bytes(tensor.format, 1, tensor.columns)
    packed = np.frombuffer(quantise(tensor.format, values), np.uint8)
    tensor.data[first * row : first * row + len(packed)] = packed


class RandomWeights:
    """Seeded random weights: each tensor depends only on the seed and its own name.

    Matrices are scaled so that attention is peaked and a block's output outweighs the residual to which it is added.
    With GPT-2's own initialisation (0.02), a tied embedding repeats the last token, whatever the heads compute.
    """

    MATRICES = ("qkv_weight", "weight", "in_weight", "out_weight")
    NORMS = ("norm_weight", "q_norm", "k_norm")
    GAIN = 2.5  # times 1/sqrt(columns); then each greedy token depends on all earlier tokens, at any width
    SCALE = 0.05  # embeddings, biases and norms

    def __init__(self, shape: ModelShape, seed: int, partition: Partition = WHOLE) -> None:
        self.shape = shape
        self.seed = seed
        self.partition = partition

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill in place; all heads of a layer get the same norm, and a piece of a tensor the values of the whole."""
        for name, tensor in tensors.items():
            piece = piece_of(self.shape, self.partition, kind, index, name)
            if not piece.rows:
                continue
            key = f"{self.seed}/{piece.kind}/{layer}/{piece.index}/{piece.name}".encode()
            seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
            if piece.columns == ONE_COLUMN:
                whole = _drawn(PCG64(seed), 1, piece.dims[0], slice(None), self.SCALE)[0]
                whole += name in self.NORMS
                write_rows(tensor, 0, np.concatenate([whole[rows] for rows in piece.rows])[None])
            else:
                scale = self.GAIN / math.sqrt(piece.dims[1]) if piece.name in self.MATRICES else self.SCALE
                _fill_matrix(tensor, piece, scale, seed)


def _fill_matrix(tensor: Packed, piece: Piece, scale: float, seed: int) -> None:
    """Fill a piece of a matrix with the values that the whole matrix has there, a few rows at a time."""
    step, filled = max(1, _COPY_BYTES // 4 // piece.dims[1]), 0
    for rows in piece.rows:
        draw = PCG64(seed)
        draw.advance(rows.start * _words(piece.dims[1]))
        for start in range(rows.start, rows.stop, step):
            drawn = _drawn(draw, min(step, rows.stop - start), piece.dims[1], piece.columns, scale)
            write_rows(tensor, filled, drawn)
            filled += len(drawn)


def _drawn(draw: PCG64, rows: int, columns: int, wanted: slice, scale: float) -> Floats:
    """The wanted columns of the next rows of a matrix: uniform numbers of mean 0 and standard deviation `scale`.

    Each is 16 of a word's 64 bits, and a row begins with a word. So the draw can skip rows, and takes a quarter of the
    time of normal numbers.
    """
    words = draw.random_raw(rows * _words(columns)).astype("<u8", copy=False)
    levels = words.view("<u2").reshape(rows, -1)[:, :columns][:, wanted]  # 0 to 2^16 - 1
    return (levels - np.float32(_MEAN_LEVEL)) * np.float32(scale / _LEVEL_DEVIATION)


def _words(columns: int) -> int:
    """The words of 64 bits of which a row of so many numbers is drawn."""
    return -(-columns // 4)


def weight_source(
    stored: StoredModel | None, shape: ModelShape, seed: int, partition: Partition = WHOLE
) -> WeightSource:
    """The weights of a checkpoint, or seeded random weights if it is None."""
    if stored is None:
        return RandomWeights(shape, seed, partition)
    return StoredWeights(stored, shape, partition)
