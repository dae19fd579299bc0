"""Where weights come from: a Hugging Face GPT-2 checkpoint, or a seed.

A source fills the tensors of one block in place, so that a device reads only what it holds. Tensor names
and shapes are those of `testbed.placement.blocks.tensors_of`.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from testbed.decoder.checkpoint import opened_tensors, prefix_of, require_weights
from testbed.errors import ConfigError
from testbed.placement.blocks import ATTENTION, WHOLE, Partition, vocab_rows
from testbed.shape import ModelShape

Tensors = dict[str, torch.Tensor]

_COPY_BYTES = 1 << 20  # read at a time; a device's limit has no room for a tensor twice
_DRAW = 16  # torch's normal_ makes numbers in groups of so many


@dataclass(frozen=True)
class Piece:
    """Where the values of a block's tensor are: all of a tensor, or some rows or columns of a whole block's."""

    kind: str
    index: int
    name: str
    dims: tuple[int, ...] = ()  # of the whole tensor; () where the block's own tensor is the whole
    first_row: int = 0  # the block's tensor says how many; the last may reach over the end, and stays zero there
    columns: tuple[slice, ...] = ()  # all, where there are none


def piece_of(shape: ModelShape, partition: Partition, kind: str, index: int, name: str) -> Piece:
    """The piece of the model's own tensors that a block's tensor is, so that a finer cut does not change the model."""
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
        starts = range(first, (2 if shape.gated_ffn else 1) * F, F)  # gate and up stand side by side
        columns = tuple(slice(start, start + own) for start in starts)
        return Piece(kind, 0, name, (D, len(columns) * F)[name == "in_bias" :], 0, columns)
    return Piece(kind, index, name)


class WeightSource(Protocol):
    """Fills the tensors of a block: kind `head`, `proj`, `ffn` or the source's `embed`."""

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill the named tensors of one block in place."""


class RandomWeights:
    """Seeded random weights: each tensor depends on the seed and its own name, not on what else is loaded.

    Matrices are scaled so that attention is peaked and the blocks outweigh the residual they add to. With
    GPT-2's own initialisation (0.02) a tied embedding repeats the token it was given, whatever a head computes.
    """

    MATRICES = ("qkv_weight", "weight", "in_weight", "out_weight")
    GAIN = 2.5  # times 1/sqrt(rows); greedy tokens then follow from every earlier one, at any width
    SCALE = 0.05  # embeddings, biases and norms

    def __init__(self, shape: ModelShape, seed: int, partition: Partition = WHOLE) -> None:
        self.shape = shape
        self.seed = seed
        self.partition = partition

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill in place; a head's norm is its layer's, whichever head asks, and a part has the values of the whole."""
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
    """Fill a piece of a tensor with what the whole would have there, without ever holding the whole.

    Normal numbers come from a generator in groups of `_DRAW`: rows are drawn some such number at a time, so that the
    numbers are those of a single draw. The last draw takes what is left with it.
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
    """A GPT-2 checkpoint as `save_pretrained` writes it: safetensors, in one file or sharded."""

    def __init__(self, path: Path, shape: ModelShape, partition: Partition = WHOLE) -> None:
        self.path = path
        self.shape = shape
        self.partition = partition
        self._stored = require_weights(path)
        self._prefix = prefix_of(self._stored)

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill in place from the checkpoint; raises ConfigError for a missing or misshapen tensor."""
        for name, tensor in tensors.items():
            piece = piece_of(self.shape, self.partition, kind, index, name)
            if piece.name.startswith("qkv"):
                piece = self._of_c_attn(piece, tensor.dim())
            self._fill_one(tensor, self._name(piece.kind, layer, piece.name), piece)

    def _fill_one(self, tensor: torch.Tensor, name: str, piece: Piece) -> None:
        """Copy one tensor, or a piece of it, a few rows at a time, so that no second copy is ever whole.

        The file's pages are dropped from the page cache afterwards: they would count as this device's memory.
        """
        if name not in self._stored:
            raise ConfigError(f"{self.path}: has no tensor {name!r}; a GPT-2 checkpoint has one")
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

    def _of_c_attn(self, piece: Piece, dimensions: int) -> Piece:
        """A head's part of c_attn (D, 3D), whose columns are q | k | v, each H heads of d."""
        d, width = self.shape.head_dim, self.shape.width
        starts = [third * width + piece.index * d for third in range(3)]
        columns = tuple(slice(start, start + d) for start in starts)
        return replace(piece, dims=(width, 3 * width)[2 - dimensions :], columns=columns)

    def _name(self, kind: str, layer: int, name: str) -> str:
        part = "weight" if name.endswith("weight") else "bias"
        if kind == "embed":
            if name == "lm_head":
                return "lm_head.weight"
            return self._prefix + {"tokens": "wte.weight", "positions": "wpe.weight"}.get(name, f"ln_f.{part}")
        if name.startswith("norm"):
            module = "ln_1" if kind == "head" else "ln_2"
        elif kind == "head":
            module = "attn.c_attn"
        elif kind == "proj":
            module = "attn.c_proj"
        else:
            module = "mlp.c_fc" if name.startswith("in") else "mlp.c_proj"
        return f"{self._prefix}h.{layer}.{module}.{part}"


def weight_source(path: str | None, shape: ModelShape, seed: int, partition: Partition) -> WeightSource:
    """The checkpoint at a path, or seeded random weights."""
    if path is None:
        return RandomWeights(shape, seed, partition)
    return HuggingFaceWeights(Path(path), shape, partition)
