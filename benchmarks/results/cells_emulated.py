"""Emulates a dozen cells of the regime map on Mininet and compares the measurement with the prediction.

A cell has GPT-2's shape with seeded weights on four devices of about 4 GB/s. It is emulated four times slower than
life, so that the host can keep up, with `headroom` and with `layerwise`. 24 tokens are enough, because nothing changes
in a cell.
"""

from __future__ import annotations

import time
from typing import Any

import pandas as pd

from benchmarks.results.cells import GRID, Cell, experiment_of
from benchmarks.results.store import Parts
from testbed.experiment.schema import Experiment
from testbed.running.carry_out import carry_out
from testbed.running.remarks import tell_nobody
from testbed.running.request import RunRequest

TOKENS, DILATION = 24, 4
POLICIES = ("headroom", "layerwise")
# Delay in ms, rate in Mbit/s, memory.
NETWORKS = (
    (0.1, 1000, "loose"), (0.1, 1000, "tight"), (0.3, 1000, "tight"), (0.3, 100, "loose"), (0.3, 100, "tight"),
    (0.3, 10, "tight"), (1.0, 1000, "loose"), (1.0, 1000, "tight"), (1.0, 100, "tight"), (3.0, 1000, "tight"),
    (3.0, 100, "tight"), (10.0, 100, "tight"),
)  # fmt: skip
CELLS = tuple(
    GRID.index(Cell("gpt2", 4, delay_ms, rate_Mbps, 4, memory, "short", 2)) for delay_ms, rate_Mbps, memory in NETWORKS
)


def collect(parts: Parts, stop_after_s: float | None) -> None:
    """Emulate the missing runs until the time is up."""
    started = time.monotonic()
    for number in CELLS:
        for policy in POLICIES:
            key = f"emulated-{number:04}-{policy}"
            if parts.find(key) is None:
                begun = time.monotonic()
                if stop_after_s is not None and begun - started > stop_after_s:
                    return
                parts.put(key, [emulate(number, policy, parts)], time.monotonic() - begun)


def emulate(number: int, policy: str, parts: Parts) -> dict[str, Any]:
    """Emulate one run on Mininet and return its row."""
    changes = {"tokens": TOKENS, "interval": TOKENS, "dilation": DILATION}
    mapping = experiment_of(number, policy, **changes)
    experiment = Experiment.from_dict(mapping, mapping["name"])
    request = RunRequest(experiment, "mininet", parts.folder / "runs")
    summary = carry_out(request, tell_nobody)
    latency = summary.get("token_latency_ms") or {}
    return {
        "cell": number,
        "policy": policy,
        "dilation": DILATION,
        "status": summary["status"],
        "token_ms": latency.get("mean"),
        "median_token_ms": latency.get("p50"),
        "predicted_ms": (summary.get("predicted_ms") or {}).get("mean"),
        "prediction_error": summary.get("prediction_error"),
        "verdict_ok": summary["verdict"]["ok"] if summary.get("verdict") else False,
        "reason": summary.get("error") or "; ".join((summary.get("verdict") or {}).get("reasons", [])),
    }


def table(parts: Parts) -> pd.DataFrame:
    """A row for each emulated cell and policy."""
    keys = [f"emulated-{number:04}-{policy}" for number in CELLS for policy in POLICIES]
    found = [row for key in keys for row in parts.find(key) or []]
    return pd.DataFrame([GRID[row["cell"]]._asdict() | row for row in found])
