"""The sources of weights: a Hugging Face checkpoint, or a seed.

A source fills the tensors of one block in place, so a device reads only the blocks that it holds. The names and shapes
of the tensors are those of `testbed.placement.blocks.tensors_of`.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Protocol

import torch

from testbed.decoder.checkpoint import opened_tensors, require_weights
from testbed.decoder.families import family_in
from testbed.decoder.pieces import Piece, piece_of
from testbed.errors import ConfigError
from testbed.placement.blocks import WHOLE, Partition
from testbed.shape import ModelShape

Tensors = dict[str, torch.Tensor]

_COPY_BYTES = 1 << 20  # copied at a time, because a device's memory limit has no room for a second copy of a tensor
_DRAW = 16  # torch's normal_ draws numbers in groups of this size


class WeightSource(Protocol):
    """A source of weights for blocks of any kind, and for the pinned `embed` on the source device."""

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill the named tensors of one block in place."""


class RandomWeights:
    """Seeded random weights: each tensor depends only on the seed and its own name.

    Matrices are scaled so that attention is peaked and a block's output outweighs the residual to which it is added.
    With GPT-2's own initialisation (0.02), a tied embedding repeats the last token, whatever the heads compute.
    """

    MATRICES = ("qkv_weight", "weight", "in_weight", "out_weight")
    GAIN = 2.5  # times 1/sqrt(rows); then each greedy token depends on all earlier tokens, at any width
    SCALE = 0.05  # embeddings, biases and norms

    def __init__(self, shape: ModelShape, seed: int, partition: Partition = WHOLE) -> None:
        self.shape = shape
        self.seed = seed
        self.partition = partition

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill in place; all heads of a layer get the same norm, and a piece of a tensor the values of the whole."""
        for name, tensor in tensors.items():
            piece = piece_of(self.shape, self.partition, kind, index, name)
            key = f"{self.seed}/{piece.kind}/{layer}/{piece.index}/{piece.name}".encode()
            seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
            generator = torch.Generator().manual_seed(seed)
            rows = (piece.dims or tensor.shape)[0]
            scale = self.GAIN / math.sqrt(rows) if piece.name in self.MATRICES else self.SCALE
            if piece.dims:
                _fill_part(tensor, piece, scale, generator)
            else:
                tensor.normal_(0.0, scale, generator=generator)
            if name == "norm_weight":
                tensor.add_(1.0)


def _fill_part(tensor: torch.Tensor, piece: Piece, scale: float, generator: torch.Generator) -> None:
    """Fill a piece of a tensor with the values that the whole tensor has there, without holding the whole.

    A generator draws normal numbers in groups of `_DRAW`. The function draws a multiple of that many rows at a time,
    and all remaining rows in the last draw, so the numbers equal those of one draw of the whole tensor.
    """
    whole_rows = piece.dims[0] if len(piece.dims) > 1 else 1
    columns = piece.columns or (slice(0, piece.dims[-1]),)
    first = piece.first_row
    last = min(whole_rows, first + (tensor.shape[0] if len(piece.dims) > 1 else 1))
    step = max(1, _COPY_BYTES // 4 // piece.dims[-1] // _DRAW) * _DRAW
    start = 0
    while start < last:
        end = start + step if whole_rows - start >= 2 * step else whole_rows
        drawn = torch.empty(end - start, piece.dims[-1]).normal_(0.0, scale, generator=generator)
        low, high = max(start, first), min(end, last)
        if low < high:
            wanted = torch.cat([drawn[low - start : high - start, column] for column in columns], dim=1)
            tensor.view(-1, wanted.shape[1])[low - first : high - first] = wanted
        start = end


class HuggingFaceWeights:
    """The weights of a checkpoint as `save_pretrained` writes it: safetensors in one file or in shards."""

    def __init__(self, path: Path, shape: ModelShape, partition: Partition = WHOLE) -> None:
        self.path = path
        self.shape = shape
        self.partition = partition
        self._stored = require_weights(path)
        self._family = family_in(path)
        self._prefix = self._family.prefix_of(self._stored)

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill in place from the checkpoint; raises ConfigError for a missing or misshapen tensor."""
        for name, tensor in tensors.items():
            piece = piece_of(self.shape, self.partition, kind, index, name)
            stored, piece = self._family.locate(self.shape, piece, layer, tensor.dim())
            prefix = "" if stored == self._family.LM_HEAD else self._prefix
            self._fill_one(tensor, prefix + stored, piece)

    def _fill_one(self, tensor: torch.Tensor, name: str, piece: Piece) -> None:
        """Copy a tensor, or a piece of it, a few rows at a time, so that there is never a second whole copy.

        Afterwards the file's pages are dropped from the page cache, where they would count as this device's memory.
        """
        if name not in self._stored:
            raise ConfigError(f"{self.path}: has no tensor {name!r}; a {self._family.TITLE} checkpoint has one")
        file = self._stored[name].file
        with opened_tensors(file, "pt") as tensors:
            whole = tensors.get_slice(name)
            found, wanted = list(whole.get_shape()), list(piece.dims or tensor.shape)
            if found != wanted:
                raise ConfigError(f"{self.path}: tensor {name!r} has shape {found}, config.json asks for {wanted}")
            first = piece.first_row
            tensor = tensor[: wanted[0] - first]
            if tensor.dim() == 1:
                parts = piece.columns or (slice(first, first + tensor.shape[0]),)
                tensor.copy_(torch.cat([whole[part] for part in parts]))
            else:
                columns = piece.columns or (slice(0, wanted[1]),)
                rows = max(1, _COPY_BYTES // (tensor.shape[1] * tensor.element_size()))
                for start in range(0, tensor.shape[0], rows):
                    target = tensor[start : start + rows]
                    place = slice(first + start, first + start + target.shape[0])
                    target.copy_(torch.cat([whole[place, column] for column in columns], dim=1))
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def weight_source(path: str | None, shape: ModelShape, seed: int, partition: Partition) -> WeightSource:
    """The weights of the checkpoint at `path`, or seeded random weights if that is None."""
    if path is None:
        return RandomWeights(shape, seed, partition)
    return HuggingFaceWeights(Path(path), shape, partition)
