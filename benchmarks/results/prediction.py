"""The cost model against emulated tokens, and where the rest lies: in computing, on links, or in software.

`sudo .venv/bin/python -m benchmarks.results.prediction` calibrates this host, then emulates each case and simulates it
beside. It wants root and a host on which nothing else runs; every case takes less than a minute.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import analysis
from benchmarks.results import store
from benchmarks.results.attribution import predicted_parts
from benchmarks.results.running import Planned, run
from testbed import calibration
from testbed.cli.calibrating import calibrate

NAME = "prediction"
CALIBRATION = "calibration"  # no .json, which parts have
MS = 1e3


@dataclass(frozen=True)
class Case:
    """One experiment, and how near its median must be."""

    name: str
    policy: str
    limit: float
    settings: dict[str, Any] = field(default_factory=dict)

    def planned(self, backend: str) -> Planned:
        """The run to be made."""
        return Planned("quickstart.yaml", self.policy, 1, self.settings, {"case": self.name, "backend": backend})


def _on(topology: str, tokens: int = 32, **settings: Any) -> dict[str, Any]:
    return {"topology": f"topologies/{topology}.yaml", "traces": [], "tokens": tokens, **settings}


CASES = (
    Case("quick start", "resource-aware", 0.05),
    Case("quick start", "headroom", 0.05),
    Case("star, no traces", "static", 0.10, _on("star4")),
    Case("two clusters, 40 Mbit/s between", "resource-aware", 0.10, _on("two-tier6")),
    Case("mesh of four", "resource-aware", 0.10, _on("mesh4")),
    Case("ring of five", "resource-aware", 0.10, _on("ring5")),
    Case("star, `ffn_shards: 4`", "headroom", 0.10, _on("star4", partition={"ffn_shards": 4})),
    Case("eight drawn devices", "headroom", 0.10, {
        "topology": {"generate": "paper", "devices": 8, "memory": "1.4 x model", "streaming": "1 GB/s"},
        "traces": [], "tokens": 32,
    }),
    Case("outage on the time clock", "resource-aware", 0.10, {
        "traces": ["traces/data/outage.csv", "traces/data/cpu-contention.csv"], "trace_clock": "time", "tokens": 128,
    }),
)  # fmt: skip


def main() -> None:
    """Calibrate, emulate and simulate what is missing; save the table."""
    parser = store.arguments(NAME, __doc__)
    options = parser.parse_args()
    parts, started = store.Parts(options.parts), time.monotonic()
    file = options.parts / CALIBRATION
    os.environ[calibration.PATH_VARIABLE] = str(file)
    if not file.exists():
        calibration.write_calibration(calibrate("mininet", False, print))
    for number, case in enumerate(CASES):
        if options.seconds is not None and time.monotonic() - started > options.seconds:
            break
        if parts.find(str(number)) is None:
            begun = time.monotonic()
            rows = measured(case, options.parts / "runs")
            parts.put(str(number), rows, time.monotonic() - begun)
    save(parts)


def measured(case: Case, folder: Path) -> list[dict[str, Any]]:
    """A row for each decoded token of a case, with what is the same for the whole run in every row."""
    emulated = run(case.planned("mininet"), "mininet", folder)
    if not emulated.get("run") or emulated["status"] != "done":
        raise RuntimeError(f"{case.name} under {case.policy} ended {emulated['status']}: {emulated.get('error')}")
    simulated = run(case.planned("sim"), "sim", folder)
    tokens = analysis.load(folder / emulated["run"]).decoded
    twin = analysis.load(folder / simulated["run"]).decoded.set_index("step")["latency_s"]
    split = predicted_parts(folder / emulated["run"])
    same = {
        "case": case.name, "policy": case.policy, "limit": case.limit, "verdict_ok": emulated["verdict_ok"],
        "verdict_reasons": emulated["verdict_reasons"], "migrations": emulated["migrations"],
        "total_s": emulated["total_s"], "simulated_total_s": simulated["total_s"],
        "stall_s": emulated["stall_s"], "simulated_stall_s": simulated["stall_s"],
        "ttft_ms": emulated["ttft_ms"], "simulated_ttft_ms": simulated["ttft_ms"],
    }  # fmt: skip
    return [
        same | {
            "step": token.step, "emulated_ms": token.latency_s * MS, "predicted_ms": token.predicted_s * MS,
            "simulated_ms": float(twin[token.step]) * MS,
            **{f"{part}_ms": getattr(token, f"{part}_s") * MS for part in ("compute", "transfer", "software")},
            **{f"predicted_{part}_ms": value * MS for part, value in split.get(token.step, {}).items()},
        }
        for token in tokens.itertuples()
    ]  # fmt: skip


def save(parts: store.Parts) -> None:
    """Write the table from the parts that are there."""
    rows = [row for number in range(len(CASES)) for row in parts.find(str(number)) or []]
    found = calibration.host_calibration()
    store.save(NAME, pd.DataFrame(rows), store.how_obtained(
        f"sudo .venv/bin/python -m benchmarks.results.{NAME}", "emulated", parts.seconds(), [1],
        [f"calibrated before: {found.hop_overhead_s * 1e3:.3f} ms of software for a hop"],
        hop_overhead_s=found.hop_overhead_s, pacing_floor_s=found.pacing_floor_s,
        runs_missing=sum(parts.find(str(number)) is None for number in range(len(CASES))),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
