"""Times an engine with models of random weights, and solves for the numbers of the device model.

- `plain`: layers and a vocabulary, once in each format of weights. What a token takes beyond the operations' fixed time
  and the cache is the weights' bytes over the format's rate. A chunk of a prompt gives the compute rate. In each format
  a model has as many layers as make `model_bytes`.
- `small`: layers with next to no weights, whose tokens take the fixed time of their operations.
- `cached`: layers with next to no weights and a cache, short in one model and long in another.

All models decode one token in turn. So each finds its weights in memory and not in a cache that its last token filled.
The counts of bytes, FLOPs and operations are the cost model's own, so that it takes the numbers back as they are.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from testbed.device_model import DeviceModel
from testbed.formats import FORMATS
from testbed.placement.blocks import blocks_of
from testbed.placement.operation import block_cost, embed_cost, lm_head_cost
from testbed.profiling.decoders import Decoder, Engine
from testbed.profiling.numbers import Measured, over_good_rounds
from testbed.shape import ModelShape, Rope, WeightFormats

SHORT, LONG = 256, 2048  # positions; llama.cpp reads its cache in steps of 256
CHUNK = 32  # rows of a prompt that are computed together
PLAIN_FORMAT = "float32"  # whose rates are the device's plain rates


@dataclass(frozen=True)
class Probes:
    """The shapes of the three kinds of models, and how much of them is timed."""

    plain: ModelShape  # of one layer, with a layer's share of the vocabulary
    small: ModelShape
    cached: ModelShape
    model_bytes: float = 80e6  # of a plain model's weights, many times what a core's own caches hold
    short: int = SHORT
    long: int = LONG
    tokens: int = 6  # of each model in a round
    rounds: int = 7

    @classmethod
    def like(cls, shape: ModelShape) -> Probes:
        """Models with the layers of this one.

        Kernels' rates depend on the size of matrices, and on how many queries share a cache.
        """
        words = max(32, round(shape.vocab / shape.layers))
        plain = replace(shape, name="profile", layers=1, vocab=words, positions=LONG + CHUNK, window=None)
        rope = Rope(10_000.0) if shape.rope else None
        bare = replace(plain, ffn_width=32, vocab=32, rope=rope, weights=WeightFormats())
        return cls(
            plain,
            replace(bare, name="profile-small", layers=8, width=32, head_dim=16),
            replace(bare, name="profile-cached", layers=12, width=64),
        )

    def plain_in(self, name: str, kv_format: str) -> ModelShape:
        """The plain model with its weights in one format; raises ValueError if a row is no whole number of blocks."""
        one = replace(self.plain, weights=WeightFormats.all_in(name), kv_format=kv_format)
        layers = max(1, round(self.model_bytes / counted(one, 1).weight_bytes))
        return replace(one, layers=layers, vocab=one.vocab * layers)


@dataclass(frozen=True)
class Counted:
    """What the cost model counts of one step."""

    operations: int
    weight_bytes: float
    kv_bytes: float
    flops: float


def counted(shape: ModelShape, length: int, rows: int = 1) -> Counted:
    """The counts of `rows` tokens, the last one seeing `length` positions, with the LM head for the last."""
    own = [block_cost(shape, block, length, rows) for block in blocks_of(shape)]
    own += [embed_cost(shape, rows), lm_head_cost(shape)]
    kv = 2.0 * shape.head_dim * length * shape.kv_bytes * shape.kv_heads * shape.layers
    read = sum(cost.read_bytes for cost in own)
    return Counted(len(own), read - kv, kv, sum(cost.flops for cost in own))


@dataclass(frozen=True)
class Computing:
    """The finer numbers of computing."""

    streaming_Bps: dict[str, Measured]  # by format
    compute_flops: dict[str, Measured]
    kv_streaming_Bps: Measured
    barrier_s: Measured
    rounds: int

    def device_model(self, threads: int) -> DeviceModel:
        """The device model with these numbers."""
        return DeviceModel(
            plain_Bps=self.streaming_Bps[PLAIN_FORMAT].value,
            plain_flops=self.compute_flops[PLAIN_FORMAT].value,
            streaming_Bps=tuple(sorted((name, one.value) for name, one in self.streaming_Bps.items())),
            kv_streaming_Bps=self.kv_streaming_Bps.value,
            compute_flops=tuple(sorted((name, one.value) for name, one in self.compute_flops.items())),
            threads=threads,
            barrier_s=self.barrier_s.value,
        )


@dataclass(frozen=True)
class Round:
    """The times of one round, in seconds: medians over its tokens."""

    plain_s: dict[str, float]  # by format, a token at the short length
    chunk_s: dict[str, float]
    small_s: float
    cached_s: tuple[float, float]  # at the short and at the long length


class ComputingProfiler:
    """Models that are open, and the rounds measured so far. Others may measure between two rounds."""

    def __init__(self, engine: Engine, probes: Probes) -> None:
        self._probes = probes
        self._shapes = {
            name: probes.plain_in(name, engine.kv_format) for name in engine.formats if _holds(probes.plain, name)
        }
        self._small_shape = replace(probes.small, kv_format=engine.kv_format)
        self._cached_shape = replace(probes.cached, kv_format=engine.kv_format)
        room = probes.short + CHUNK
        self._plain = {name: engine.open(shape, room) for name, shape in self._shapes.items()}
        self._small = engine.open(self._small_shape, probes.short)
        self._cached = tuple(engine.open(self._cached_shape, length) for length in (probes.short, probes.long))
        self._lengths = dict.fromkeys((*self._plain.values(), self._small, self._cached[0]), probes.short)
        self._lengths[self._cached[1]] = probes.long
        for decoder, length in self._lengths.items():
            decoder.fill(length)
        self._rounds: list[Round] = []

    def round(self) -> None:
        """Time each model once more."""
        seconds: dict[Decoder, list[float]] = {decoder: [] for decoder in self._lengths}
        for _ in range(self._probes.tokens):
            for decoder, length in self._lengths.items():
                started = time.perf_counter()
                decoder.token(length)
                seconds[decoder].append(time.perf_counter() - started)
        found = {decoder: statistics.median(times) for decoder, times in seconds.items()}
        chunk = {}
        for name, decoder in self._plain.items():
            chunk[name] = median_s(lambda decoder=decoder: decoder.chunk(self._probes.short, CHUNK), 2)  # type: ignore[misc]
        plain = {name: found[decoder] for name, decoder in self._plain.items()}
        self._rounds.append(Round(plain, chunk, found[self._small], (found[self._cached[0]], found[self._cached[1]])))

    def close(self) -> None:
        """Close all models."""
        for decoder in self._lengths:
            decoder.close()

    def result(self) -> Computing:
        """The numbers over all rounds so far; a rate is infinite where the times contradict one another."""
        solved = [self._solved(one) for one in self._rounds]
        return Computing(
            {name: over_good_rounds([one.streaming_Bps[name] for one in solved]) for name in self._shapes},
            {name: over_good_rounds([one.compute_flops[name] for one in solved]) for name in self._shapes},
            over_good_rounds([one.kv_Bps for one in solved]),
            over_good_rounds([one.barrier_s for one in solved]),
            len(solved),
        )

    def _solved(self, one: Round) -> Solved:
        short, long = (counted(self._cached_shape, length) for length in (self._probes.short, self._probes.long))
        s_per_kv_byte = max(one.cached_s[1] - one.cached_s[0], 0.0) / (long.kv_bytes - short.kv_bytes)
        small = counted(self._small_shape, self._probes.short)
        plain = {name: counted(shape, self._probes.short) for name, shape in self._shapes.items()}
        # Two unknowns, the time per operation and the time per byte of plain weights, and two times.
        big, big_s = plain[PLAIN_FORMAT], one.plain_s[PLAIN_FORMAT]
        big_s -= big.kv_bytes * s_per_kv_byte
        small_s = max(one.small_s - small.kv_bytes * s_per_kv_byte, 0.0)
        s_per_byte = big_s * small.operations - small_s * big.operations
        s_per_byte /= big.weight_bytes * small.operations - small.weight_bytes * big.operations
        barrier = max(0.0, (small_s - small.weight_bytes * s_per_byte) / small.operations)
        streaming, compute = {}, {}
        for name, counts in plain.items():
            seconds = one.plain_s[name] - counts.operations * barrier - counts.kv_bytes * s_per_kv_byte
            streaming[name] = _rate(counts.weight_bytes, seconds)
            chunk = counted(self._shapes[name], self._probes.short + CHUNK, CHUNK)
            compute[name] = _rate(chunk.flops, one.chunk_s[name] - chunk.operations * barrier)
        return Solved(streaming, compute, _rate(1.0, s_per_kv_byte), barrier)


@dataclass(frozen=True)
class Solved:
    """The numbers of one round; infinite where other times leave no time for one."""

    streaming_Bps: dict[str, float]
    compute_flops: dict[str, float]
    kv_Bps: float
    barrier_s: float


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else math.inf


def _holds(shape: ModelShape, name: str) -> bool:
    """Whether all rows of a shape's matrices are whole blocks of a format."""
    block = FORMATS[name].block
    return not any(columns % block for columns in (shape.width, shape.heads * shape.head_dim, shape.ffn_width))


def median_s(step: Callable[[], None], count: int) -> float:
    """The median seconds of a step."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
