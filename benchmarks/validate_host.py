"""The device model against this host: it is profiled, and SmolLM2's decoding is predicted and measured, in one run.

`python -m benchmarks.validate_host` takes up to eight minutes and wants a quiet host. For each engine (this package's
decoder, and llama.cpp with one and with two threads) it opens the small models that `testbed profile` times, and
SmolLM2 135M in each format. Rounds of profiling and rounds of SmolLM2's tokens take turns, so that both see the host in
the same minutes. The prediction is the cost model's, for one device with the profile's numbers; SmolLM2 itself is not
part of the profile. llama.cpp needs the package llama-cpp-python (`script/setup bench`). The last line is JSON, which
`--out` also writes to a file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.smollm2 import model_file
from testbed.decoder.checkpoint import read_shape, require_model
from testbed.decoder.convert import convert
from testbed.decoder.stored import stored_bytes
from testbed.decoder.stored_weights import StoredWeights
from testbed.device_model import DeviceModel
from testbed.placement.blocks import WHOLE, Placement, blocks_of
from testbed.placement.cost.model import token_latency
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.profiling.computing import Computing, ComputingProfiler, Probes, median_s
from testbed.profiling.decoders import Decoder, Engine, Headroom, HeadroomEngine
from testbed.profiling.gguf_file import write_llama
from testbed.profiling.llama_cpp import LlamaCpp, LlamaCppEngine
from testbed.profiling.profile import this_machine
from testbed.shape import ModelShape, WeightFormats

FORMATS = ("q4_0", "q4_1", "q8_0", "float16")
LENGTHS = (64, 512, 2048)
BOUNDS = {"headroom": 0.10, "llama.cpp": 0.20}  # of the median error, set in advance
TOKENS = 6  # of a cell in a round
Cell = tuple[str, int]  # format, context


def shape_in(name: str, kv_format: str) -> ModelShape:
    """SmolLM2 with all weights in one format."""
    return replace(read_shape(model_file()), weights=WeightFormats.all_in(name), kv_format=kv_format)


def predicted_s(shape: ModelShape, model: DeviceModel, length: int) -> float:
    """The cost model's time of a token on one device that holds everything."""
    view = DeviceView("host", 2**40, model.plain_Bps, model.plain_flops, 1e9, model)
    link = LinkView(1e9, 1e9, 0.0, 0.0)
    seen = Observation(shape, WHOLE, "host", (view,), {"host": link}, length, 0, 1, 1)
    return token_latency(seen, Placement(dict.fromkeys(blocks_of(shape), "host")), length)


@contextmanager
def our_models() -> Iterator[dict[Cell, Decoder]]:
    """SmolLM2 in this package's decoder, with full caches."""
    found: dict[Cell, Decoder] = {}
    for name in FORMATS:
        shape = shape_in(name, "float32")
        decoder = Headroom(shape, StoredWeights(require_model(model_file()), shape), max(LENGTHS))
        decoder.fill(max(LENGTHS))
        found |= {(name, length): decoder for length in LENGTHS}
    yield found


@contextmanager
def llama_models(threads: int) -> Iterator[dict[Cell, LlamaCpp]]:
    """SmolLM2 in llama.cpp, for each context a model of its own that has computed a prompt of that length."""
    found: dict[Cell, LlamaCpp] = {}
    with tempfile.TemporaryDirectory(prefix="headroom-validate-") as folder:
        for name in FORMATS:
            file = converted(name, Path(folder) / f"{name}.gguf")
            for length in LENGTHS:
                decoder = found[name, length] = LlamaCpp(file, length, threads)
                decoder.fill(length)
    try:
        yield found
    finally:
        for decoder in found.values():
            decoder.close()


def converted(name: str, target: Path) -> Path:
    """SmolLM2's file with all matrices in one format, by this package's own conversions."""
    tensors = {one.own_name: one for one in require_model(model_file()).tensors.values()}

    def content(tensor: str, form: str, rows: int, columns: int) -> bytes:
        one = tensors[tensor]
        stored = np.fromfile(one.file, np.uint8, stored_bytes(one.format, (rows, columns)), offset=one.offset)
        return convert(one.format, form, stored.reshape(rows, -1)).tobytes()

    return write_llama(target, shape_in(name, "float16"), content)


def validated(engine: Engine, models: dict[Cell, Decoder] | dict[Cell, LlamaCpp], rounds: int) -> dict[str, Any]:
    """Profile and measure in turns, then predict each cell."""
    profiler = ComputingProfiler(engine, Probes.like(read_shape(model_file())))
    measured: dict[Cell, list[float]] = {cell: [] for cell in models}
    for _ in range(rounds):
        profiler.round()
        for (name, length), decoder in models.items():
            step: Callable[[], None] = lambda decoder=decoder, length=length: decoder.token(length)  # type: ignore[misc]  # noqa: E731
            step()
            measured[name, length].append(median_s(step, TOKENS))
    computing = profiler.result()
    profiler.close()
    model = computing.device_model(engine.threads)
    cells = []
    for (name, length), seconds in measured.items():
        predicted = predicted_s(shape_in(name, engine.kv_format), model, length)
        truth = statistics.median(seconds)
        cells.append(
            {
                "format": name, "context": length, "measured_ms": truth * 1e3, "least_ms": min(seconds) * 1e3,
                "most_ms": max(seconds) * 1e3, "predicted_ms": predicted * 1e3, "error": predicted / truth - 1,
            }
        )  # fmt: skip
    errors = [cell["error"] for cell in cells]
    return {
        "engine": engine.name, "version": engine.version, "threads": engine.threads, "cells": cells,
        "median_abs": statistics.median(map(abs, errors)), "median_signed": statistics.median(errors),
        "worst_abs": max(map(abs, errors)), "bound": BOUNDS[engine.name], "profile": told(computing),
    }  # fmt: skip


def told(computing: Computing) -> dict[str, Any]:
    """The profile's numbers with their spread, ready for JSON."""
    return asdict(computing)


def show(found: dict[str, Any]) -> None:
    """Print the cells of one engine."""
    print(f"{found['engine']} ({found['version']}), threads: {found['threads']}")
    for cell in found["cells"]:
        print(
            f"  {cell['format']:8} {cell['context']:5}  measured {cell['measured_ms']:7.2f} ms "
            f"({cell['least_ms']:.2f} to {cell['most_ms']:.2f}), predicted {cell['predicted_ms']:7.2f}, "
            f"{cell['error']:+.1%}"
        )
    print(
        f"  median error {found['median_abs']:.1%} (signed {found['median_signed']:+.1%}), {found['worst_abs']:.1%} at "
        f"most; bound {found['bound']:.0%}",
        flush=True,
    )


def main() -> None:
    """Profile, measure, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ours-only", action="store_true", help="leave llama.cpp out")
    parser.add_argument("--out", type=Path, help="write the JSON to this file, too")
    given = parser.parse_args()
    begun = time.monotonic()
    engines = []
    with our_models() as models:
        engines.append(validated(HeadroomEngine(), models, given.rounds))
    show(engines[-1])
    if not given.ours_only:
        with llama_models(2) as others:
            for threads in (1, 2):
                for decoder in others.values():
                    decoder.use_threads(threads)
                engines.append(validated(LlamaCppEngine(threads), others, given.rounds))
                show(engines[-1])
    line = {
        "benchmark": "validate_host",
        "ratio": 1 + engines[0]["median_signed"],
        "unit": "times the measured time per token, predicted for this package's decoder",
        "peer": "the same token, measured in the same minutes",
        "seconds": time.monotonic() - begun,
        "machine": this_machine().title,
        "date": datetime.now(UTC).date().isoformat(),
        "engines": engines,
    }
    if given.out is not None:
        given.out.write_text(json.dumps(line, indent=2) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
