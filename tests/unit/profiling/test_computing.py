"""Profiling an engine: the numbers that the device model is given back are those with which the engine computes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from profiling_cases import TINY, USUAL

from testbed.device_model import DeviceModel
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE, Placement, blocks_of
from testbed.placement.cost.model import token_latency
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.profiling import computing
from testbed.profiling.computing import CHUNK, ComputingProfiler, Probes, counted
from testbed.profiling.decoders import HeadroomEngine
from testbed.shape import ModelShape


class VirtualTime:
    """A clock that only decoders move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(eq=False)
class Imagined:
    """A decoder that takes exactly what the numbers say."""

    engine: ImaginedEngine
    shape: ModelShape

    def fill(self, length: int) -> None:
        pass

    def token(self, length: int) -> None:
        counts, engine = counted(self.shape, length), self.engine
        name = self.shape.weights.qkv
        self.engine.clock.now_s += (
            counts.operations * engine.barrier_s
            + counts.weight_bytes / engine.streaming_Bps[name]
            + counts.kv_bytes / engine.kv_Bps
        )

    def chunk(self, length: int, rows: int) -> None:
        counts, engine = counted(self.shape, length + rows, rows), self.engine
        engine.clock.now_s += counts.operations * engine.barrier_s
        engine.clock.now_s += counts.flops / engine.compute_flops[self.shape.weights.qkv]

    def close(self) -> None:
        self.engine.closed += 1


class ImaginedEngine:
    """An engine with given numbers."""

    name, version, threads, kv_format = "imagined", "1", 1, "float32"
    formats = ("float32", "q8_0", "q4_0")

    def __init__(self, clock: VirtualTime) -> None:
        self.clock, self.closed = clock, 0
        self.streaming_Bps = {"float32": 9e9, "q8_0": 5e9, "q4_0": 3e9}
        self.compute_flops = {"float32": 40e9, "q8_0": 30e9, "q4_0": 20e9}
        self.kv_Bps, self.barrier_s = 15e9, 12e-6

    def open(self, shape: ModelShape, positions: int) -> Imagined:
        return Imagined(self, shape)


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> ImaginedEngine:
    clock = VirtualTime()
    monkeypatch.setattr(computing.time, "perf_counter", clock)
    return ImaginedEngine(clock)


def test_an_engines_own_numbers_are_found_again(imagined: ImaginedEngine) -> None:
    profiler = ComputingProfiler(imagined, USUAL)
    for _ in range(2):
        profiler.round()
    profiler.close()
    found = profiler.result()
    for name in imagined.formats:
        # Norms are float32 in every format, and are counted at the format's rate: a share of under 0.1 %.
        assert found.streaming_Bps[name].value == pytest.approx(imagined.streaming_Bps[name], rel=2e-3)
        assert found.compute_flops[name].value == pytest.approx(imagined.compute_flops[name], rel=2e-3)
    assert found.kv_streaming_Bps.value == pytest.approx(imagined.kv_Bps, rel=1e-6)
    assert found.barrier_s.value == pytest.approx(imagined.barrier_s, rel=2e-2)
    assert found.rounds == 2 and imagined.closed == len(imagined.formats) + 3


def test_the_cost_model_takes_a_profile_back(imagined: ImaginedEngine) -> None:
    profiler = ComputingProfiler(imagined, USUAL)
    profiler.round()
    model = profiler.result().device_model(1)
    shape = USUAL.plain_in("q4_0", "float32")
    decoder = Imagined(imagined, shape)
    before = imagined.clock.now_s
    decoder.token(1000)
    assert predicted_s(shape, model, 1000) == pytest.approx(imagined.clock.now_s - before, rel=1e-2)


def predicted_s(shape: ModelShape, model: DeviceModel, length: int) -> float:
    view = DeviceView("here", 2**40, model.plain_Bps, model.plain_flops, 1e9, model)
    seen = Observation(shape, WHOLE, "here", (view,), {"here": LinkView(1e9, 1e9, 0.0, 0.0)}, length, 0, 1, 1)
    return token_latency(seen, Placement(dict.fromkeys(blocks_of(shape), "here")), length)


def test_a_format_with_fewer_bytes_has_more_layers() -> None:
    layers = [USUAL.plain_in(name, "float32").layers for name in ("float32", "float16", "q8_0", "q4_0")]
    sizes = [counted(USUAL.plain_in(name, "float32"), 1).weight_bytes for name in ("float32", "q8_0", "q4_0")]
    assert layers == sorted(layers) and all(size == pytest.approx(80e6, rel=0.25) for size in sizes)


def test_a_chunk_counts_the_positions_that_it_follows() -> None:
    shape = USUAL.plain_in("q8_0", "float32")
    first, later = counted(shape, CHUNK, CHUNK), counted(shape, 256 + CHUNK, CHUNK)
    assert later.flops > first.flops and later.weight_bytes == first.weight_bytes


def test_our_own_decoder_is_profiled_in_every_format() -> None:
    profiler = ComputingProfiler(HeadroomEngine(), TINY)
    for _ in range(TINY.rounds):
        profiler.round()
    found = profiler.result()
    profiler.close()
    assert set(found.streaming_Bps) == set(HeadroomEngine.formats) == set(found.compute_flops)
    for one in (*found.streaming_Bps.values(), *found.compute_flops.values(), found.kv_streaming_Bps):
        assert 0 < one.least <= one.value <= one.most
    assert found.barrier_s.value >= 0


def test_a_model_of_another_family_lends_its_layers() -> None:
    found = Probes.like(PRESETS["gpt2"])
    assert not found.plain.gated_ffn and found.plain.width == 768 and found.small.kv_heads == found.small.heads == 12
    tiny = replace(Probes.like(PRESETS["tiny"]), model_bytes=5e4, short=4, long=16, tokens=1)
    profiler = ComputingProfiler(HeadroomEngine(), tiny)
    profiler.round()
    profiler.close()
    assert profiler.result().streaming_Bps["float32"].value > 0
