"""The twin is quick: fleets and models far beyond what a laptop emulates."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from simulated import simulated

from testbed.experiment import Experiment
from testbed.shape import PRESETS, ModelShape

LARGE = ModelShape("large", 32, 1024, 32, 32, 32, 4096, 1000, 4096)


def large(devices: int, tokens: int) -> Experiment:
    """32 layers of 32 heads on unequal devices."""
    draw = random.Random(1)
    fleet = {
        f"d{number:03}": {
            "streaming": f"{draw.uniform(1, 4):.3f} GB/s", "compute": f"{draw.uniform(5, 20):.2f} GFLOP/s",
            "memory": "200 MiB", "storage": "90 MB/s",
            "link": {"rate": f"{draw.uniform(50, 500):.0f} Mbit/s", "delay": "0.5 ms"},
        }
        for number in range(devices)
    }  # fmt: skip
    return Experiment.from_dict(
        {
            "model": {"preset": "large"}, "prompt": {"ids": list(range(32))}, "tokens": tokens, "interval": 16,
            "topology": {"name": "fleet", "shape": "star", "source": "d000", "devices": fleet}, "policy": "round-robin",
        },
        "large",
    )  # fmt: skip


@pytest.mark.parametrize(("devices", "tokens", "limit_s"), [(25, 1000, 10.0), (1000, 48, 20.0)])
def test_a_large_run_is_simulated_in_seconds_apart_from_deciding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, tokens: int, limit_s: float
) -> None:
    monkeypatch.setitem(PRESETS, "large", LARGE)
    of = large(devices, tokens)
    started = time.process_time()
    summary, rows = simulated(tmp_path, of)
    spent = time.process_time() - started - summary["decision_ms"] / 1e3
    assert summary["status"] == "done" and len(rows["tokens"]) == tokens
    assert summary["prediction_error"] == pytest.approx(0, abs=1e-9)
    assert spent < limit_s
