"""The twin is quick: fleets and models far beyond what a laptop emulates."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from simulated import simulated

from testbed.controller import deciding
from testbed.experiment.schema import Experiment
from testbed.placement.cost import model as costs

FINE = {"ffn_shards": 8, "proj_rows": True, "vocab_shards": 4}
LENGTHS = 36  # in an interval of 16 tokens: each once in the twin, once in the controller, and a few at the boundary
LARGE = {
    "model_type": "gpt2", "n_layer": 32, "n_embd": 1024, "n_head": 32, "vocab_size": 1000, "n_positions": 4096,
}  # fmt: skip


def large(folder: Path, devices: int, tokens: int, memory: str = "200 MiB", **keys: Any) -> Experiment:
    """32 layers of 32 heads on unequal devices."""
    (folder / "config.json").write_text(json.dumps(LARGE))
    draw = random.Random(1)
    fleet = {
        f"d{number:03}": {
            "streaming": f"{draw.uniform(1, 4):.3f} GB/s", "compute": f"{draw.uniform(5, 20):.2f} GFLOP/s",
            "memory": memory, "storage": "90 MB/s",
            "link": {"rate": f"{draw.uniform(50, 500):.0f} Mbit/s", "delay": "0.5 ms"},
        }
        for number in range(devices)
    }  # fmt: skip
    return Experiment.from_dict(
        {
            "model": {"path": str(folder)}, "prompt": {"ids": list(range(32))}, "tokens": tokens, "interval": 16,
            "topology": {"name": "fleet", "shape": "star", "source": "d000", "devices": fleet}, "policy": "round-robin",
        }
        | keys,
        "large",
    )  # fmt: skip


@pytest.mark.parametrize(("devices", "tokens", "limit_s"), [(25, 1000, 10.0), (1000, 48, 20.0)])
def test_a_large_run_is_simulated_in_seconds_apart_from_deciding(
    tmp_path: Path, devices: int, tokens: int, limit_s: float
) -> None:
    of = large(tmp_path, devices, tokens)
    started = time.process_time()
    summary, rows = simulated(tmp_path, of)
    spent = time.process_time() - started - summary["decision_ms"] / 1e3
    assert summary["status"] == "done" and len(rows["tokens"]) == tokens
    assert summary["prediction_error"] == pytest.approx(0, abs=1e-9)
    assert spent < limit_s


@pytest.mark.parametrize("partition", [{}, FINE], ids=["whole", "cut"])
@pytest.mark.parametrize("policy", ["round-robin", "layerwise", "galaxy", "headroom"])
def test_half_layers_are_computed_at_most_once_for_a_token_whatever_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, partition: dict[str, Any]
) -> None:
    counted, asking = [0], [False]
    half_layer_latency, ask = costs.half_layer_latency, deciding.call_policy

    def half_layer(*arguments: Any) -> float:
        counted[0] += not asking[0]
        return half_layer_latency(*arguments)

    def asked(*arguments: Any) -> Any:
        asking[0] = True
        answer = ask(*arguments)
        asking[0] = False
        return answer

    monkeypatch.setattr(costs, "half_layer_latency", half_layer)
    monkeypatch.setattr(deciding, "call_policy", asked)
    of = large(tmp_path, 25, 80, memory="400 MiB", policy=policy, partition=partition)
    summary, _ = simulated(tmp_path, of)
    assert summary["status"] == "done" and summary["prediction_error"] == pytest.approx(0, abs=1e-9)
    halves = 2 * of.shape.layers + 1
    intervals = 80 // of.interval
    assert counted[0] <= LENGTHS * halves * intervals
