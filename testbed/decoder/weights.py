"""Where weights come from: a Hugging Face GPT-2 checkpoint, or a seed.

A source fills the tensors of one block in place, so that a device reads only what it holds. Tensor names
and shapes are those of `testbed.placement.blocks.tensors_of`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from testbed.errors import ConfigError
from testbed.shape import ModelShape

Tensors = dict[str, torch.Tensor]

_COPY_BYTES = 1 << 20  # read at a time; a device's limit has no room for a tensor twice


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

    def __init__(self, shape: ModelShape, seed: int) -> None:
        self.shape = shape
        self.seed = seed

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill in place; a head's norm is its layer's, whichever head asks."""
        for name, tensor in tensors.items():
            owner = 0 if name.startswith("norm") else index
            key = f"{self.seed}/{kind}/{layer}/{owner}/{name}".encode()
            seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
            scale = self.GAIN / math.sqrt(tensor.shape[0]) if name in self.MATRICES else self.SCALE
            tensor.normal_(0.0, scale, generator=torch.Generator().manual_seed(seed))
            if name == "norm_weight":
                tensor.add_(1.0)


class HuggingFaceWeights:
    """A GPT-2 checkpoint as `save_pretrained` writes it: safetensors, in one file or sharded."""

    INDEX = "model.safetensors.index.json"
    SINGLE = "model.safetensors"

    def __init__(self, path: Path, shape: ModelShape) -> None:
        self.path = path
        self.shape = shape
        self._file_of = self._read_index()
        self._prefix = "transformer." if any(name.startswith("transformer.") for name in self._file_of) else ""

    def _read_index(self) -> dict[str, str]:
        index = self.path / self.INDEX
        if index.exists():
            files: dict[str, str] = json.loads(index.read_text())["weight_map"]
            for name in sorted(set(files.values())):
                if not (self.path / name).exists():
                    raise ConfigError(f"{index}: names the file {name!r}, which is not in {self.path}")
            return files
        single = self.path / self.SINGLE
        if not single.exists():
            raise ConfigError(f"{self.path}: has neither {self.SINGLE} nor {self.INDEX}")
        with _opened(single) as tensors:
            return dict.fromkeys(tensors.keys(), self.SINGLE)

    def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
        """Fill in place from the checkpoint; raises ConfigError for a missing or misshapen tensor."""
        for name, tensor in tensors.items():
            self._fill_one(tensor, self._name(kind, layer, name), self._columns(kind, index, name))

    def _fill_one(self, tensor: torch.Tensor, name: str, columns: list[slice]) -> None:
        """Copy one tensor, or some columns of it, a few rows at a time, so that no second copy is ever whole.

        The file's pages are dropped from the page cache afterwards: they would count as this device's memory.
        """
        if name not in self._file_of:
            raise ConfigError(f"{self.path}: has no tensor {name!r}; a GPT-2 checkpoint has one")
        file = self.path / self._file_of[name]
        with _opened(file) as tensors:
            piece = tensors.get_slice(name)
            found = list(piece.get_shape())
            wanted = list(tensor.shape)
            if columns:
                wanted[-1] = 3 * self.shape.width
            if found != wanted:
                raise ConfigError(f"{self.path}: tensor {name!r} has shape {found}, config.json asks for {wanted}")
            if tensor.dim() == 1:
                parts = [piece[column] for column in columns] if columns else [piece[:]]
                tensor.copy_(torch.cat(parts))
            else:
                rows = max(1, _COPY_BYTES // (tensor.shape[1] * tensor.element_size()))
                for start in range(0, tensor.shape[0], rows):
                    target = tensor[start : start + rows]
                    if columns:
                        parts = [piece[start : start + rows, column] for column in columns]
                        target.copy_(torch.cat(parts, dim=1))
                    else:
                        target.copy_(piece[start : start + rows])
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def _columns(self, kind: str, index: int, name: str) -> list[slice]:
        """For a head's part of c_attn (D, 3D), whose columns are q | k | v, each H heads of d; else nothing."""
        if kind != "head" or name.startswith("norm"):
            return []
        d, width = self.shape.head_dim, self.shape.width
        return [slice(third * width + index * d, third * width + (index + 1) * d) for third in range(3)]

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


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file open for reading; raises ConfigError for one that is damaged or lacks what is asked of it."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ConfigError(f"{file}: this is not the safetensors file that the checkpoint needs: {error}") from error
