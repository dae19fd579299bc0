"""A decoder as profiling sees it: it decodes a token at any length, and computes a chunk of a prompt.

`Headroom` is this package's own, in one process. `llama_cpp.LlamaCpp` is another.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from testbed.decoder.reference import Reference
from testbed.decoder.weights import RandomWeights, WeightSource
from testbed.placement.blocks import blocks_of
from testbed.shape import ModelShape
from testbed.version import __version__

ANY_TOKEN = 1


class Decoder(Protocol):
    """One model in one engine, ready to compute."""

    def fill(self, length: int) -> None:
        """Let the KV caches hold `length` positions."""

    def token(self, length: int) -> None:
        """Decode one token that sees `length` positions; the caches hold at least those before it."""

    def chunk(self, length: int, rows: int) -> None:
        """Compute `rows` tokens of a prompt together, after `length` positions; then forget them."""

    def close(self) -> None:
        """Give the memory back."""


class Engine(Protocol):
    """Opens models of any shape. `formats` are those of weights that it knows, float32 first."""

    name: str
    version: str
    threads: int
    formats: tuple[str, ...]
    kv_format: str

    def open(self, shape: ModelShape, positions: int) -> Decoder:
        """Return a decoder of random weights in the shape's formats."""
        ...


class HeadroomEngine:
    """This package's decoder, which computes in one thread."""

    name = "headroom"
    version = __version__
    threads = 1
    formats: tuple[str, ...] = ("float32", "bfloat16", "float16", "q8_0", "q4_1", "q4_0")
    kv_format = "float32"

    def open(self, shape: ModelShape, positions: int) -> Decoder:
        """Return a decoder of random weights in the shape's formats."""
        return Headroom(shape, RandomWeights(shape, seed=1), positions)


class Headroom:
    """A model in this package's decoder, all its blocks in this process."""

    def __init__(self, shape: ModelShape, weights: WeightSource, positions: int) -> None:
        self._reference = Reference(shape, weights, positions)

    def fill(self, length: int) -> None:
        """Write random keys and values, as a prompt of this length would leave them."""
        drawn = np.random.default_rng(1)
        shape = self._reference.shape
        for block in blocks_of(shape):
            if block.kind == "head":
                for part in self._reference.store.payload(block, length, False):
                    values = np.frombuffer(part, np.float32)
                    values[:] = drawn.standard_normal(len(values), np.float32)

    def token(self, length: int) -> None:
        """Decode one token that sees `length` positions."""
        self._reference.forward([ANY_TOKEN], length - 1)

    def chunk(self, length: int, rows: int) -> None:
        """Compute `rows` tokens together, after `length` positions."""
        self._reference.forward([ANY_TOKEN] * rows, length)

    def close(self) -> None:
        """Unmap all blocks."""
        del self._reference
