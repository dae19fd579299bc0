"""Engines: what a program exchanges in each layer, what only its root computes, and how it bills times.

An engine is a list of exchanges. In each, the root sends a payload to every worker, all nodes compute their equal part
of some matrices, and every worker sends a result back (or, all-to-all, to every peer). Numbers are per layer and
worker. The lists are those of `data/README.md`. This module knows no device and no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from testbed.shape import ModelShape
from testbed.validation.names import Program

Q80_BYTES = 34 / 32  # a value in a message


@dataclass(frozen=True)
class Sizes:
    """The widths of a model and the number of nodes, as the lists of exchanges use them."""

    D: int  # width
    A: int  # width of all query heads
    K: int  # width of all KV heads
    F: int  # FFN
    n: int  # nodes

    @classmethod
    def of(cls, shape: ModelShape, nodes: int) -> Sizes:
        """The sizes of a model on so many nodes."""
        d = shape.head_dim
        return cls(shape.width, shape.heads * d, shape.kv_heads * d, shape.ffn_width, nodes)


@dataclass(frozen=True)
class Exchange:
    """One exchange of each layer: values to and from each worker, and weights that all nodes share in equal parts."""

    name: str
    to_worker: Callable[[Sizes], float]  # values
    to_root: Callable[[Sizes], float]
    weights: Callable[[Sizes], float]  # elements, of all nodes together
    attention: Literal["", "nodes", "root"] = ""  # who attends in it: nodes with their heads, or the root after it
    billed_as_inference: bool = False  # also the waiting


@dataclass(frozen=True)
class Engine:
    """A program in a range of versions."""

    name: str
    since: tuple[int, ...]  # the first version that it describes
    exchanges: tuple[Exchange, ...]
    all_to_all: bool = False  # every node sends its result to every other
    logits: Literal["root", "nodes"] = "root"
    slow_logits: bool = False  # by a kernel for float32 activations, whose rate is a parameter of its own
    attention_threads: int | None = None  # None: all
    embedding_bytes: int = 4  # per element, at the root
    kv_bytes: int = 4  # per element of a KV cache, unless a row says otherwise
    distributed: bool = True


_GATHERED = (
    Exchange("q, k, v", lambda s: s.D, lambda s: (s.A + 2 * s.K) / s.n, lambda s: s.D * (s.A + 2 * s.K), "root"),
    Exchange("output projection", lambda s: s.D, lambda s: s.D / s.n, lambda s: s.A * s.D),
    Exchange("FFN, first matrices", lambda s: s.D, lambda s: s.F / s.n, lambda s: 2 * s.D * s.F),
    Exchange("FFN, last matrix", lambda s: (s.n - 1) * s.F / s.n, lambda s: s.D / s.n, lambda s: s.D * s.F),
)
_WAITING_BILLED = tuple(
    Exchange(one.name, one.to_worker, one.to_root, one.weights, one.attention, one.attention == "root")
    for one in _GATHERED
)
_ATTENTION = Exchange("attention", lambda s: s.D, lambda s: s.D, lambda s: s.D * (s.A + 2 * s.K) + s.A * s.D, "nodes")
_FFN = Exchange("FFN", lambda s: s.D, lambda s: s.D, lambda s: 3 * s.D * s.F)

DLLAMA = (
    Engine("dllama-0.1", (0, 1), _GATHERED, slow_logits=True, attention_threads=1),
    Engine("dllama-0.3", (0, 3), _WAITING_BILLED, slow_logits=True),
    Engine("dllama-0.5", (0, 5), (_ATTENTION, *_GATHERED[2:]), slow_logits=True),
    Engine("dllama-0.7.1", (0, 7, 1), (_ATTENTION, _FFN)),
    Engine("dllama-0.11", (0, 11), (_ATTENTION, _FFN), all_to_all=True, logits="nodes"),
)
LLAMA_CPP = Engine("llama.cpp", (), (_ATTENTION, _FFN), embedding_bytes=0, kv_bytes=2, distributed=False)
ENGINES = {engine.name: engine for engine in (*DLLAMA, LLAMA_CPP)}


def engine_of(program: Program) -> Engine:
    """The engine that describes a program's version."""
    if program.name != "dllama":
        return LLAMA_CPP
    return [DLLAMA[0], *(engine for engine in DLLAMA if engine.since <= program.version)][-1]


def layer_weights(shape: ModelShape) -> float:
    """Elements of the matrices of one layer."""
    sizes = Sizes.of(shape, 1)
    return sum(exchange.weights(sizes) for exchange in (_ATTENTION, _FFN)) - (
        0 if shape.gated_ffn else shape.width * shape.ffn_width
    )


def sent_bytes(engine: Engine, shape: ModelShape, nodes: int, value_bytes: float) -> tuple[float, float]:
    """(bytes that the root sends, bytes that it receives) for one token, without headers."""
    sizes = Sizes.of(shape, nodes)
    down = sum(exchange.to_worker(sizes) for exchange in engine.exchanges) * shape.layers * value_bytes
    up = sum(exchange.to_root(sizes) for exchange in engine.exchanges) * shape.layers * value_bytes
    if engine.all_to_all:
        down += 4 * shape.width  # the embedding's row, in float32
        up += 4 * shape.vocab / nodes  # a slice of the logits, in float32
    return down * (nodes - 1), up * (nodes - 1)
