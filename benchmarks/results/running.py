"""Carries out a run of an experiment and keeps its results as plain columns with units.

A run is the same as one of `testbed replay`: the same experiment files, keys, backends and run folders.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results.store import ROOT, Parts, bar
from testbed import analysis
from testbed.controller.calibration import NOMINAL_HOP_S, HostCalibration
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.runlog.comparison import tidy
from testbed.running.backends import find_backend
from testbed.running.carry_out import carry_out
from testbed.running.check import NothingFits, check_experiment
from testbed.running.remarks import tell_nobody
from testbed.running.request import RunRequest

EXPERIMENTS = ROOT / "experiments"
KEPT = (
    "status", "error_kind", "error", "mean_token_ms", "mean_token_with_stall_ms", "p95_token_ms", "ttft_ms", "stall_s",
    "total_s", "decision_ms", "migrations", "migrated_bytes", "prediction_error",
)  # fmt: skip

# A policy with options: its name in the data, and the policy and overrides that it stands for.
FREE_EDGESHARD = "edgeshard, first layer anywhere"
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    FREE_EDGESHARD: ("edgeshard", {"policy_options": {"pin_source": False}}),
}

NOMINAL_NOTE = f"simulated runs count the nominal {NOMINAL_HOP_S * 1e3:g} ms of software for a hop"


@dataclass(frozen=True)
class Planned:
    """A planned run: the experiment's file, its overrides, and the policy.

    `said` holds the columns that identify the run. `hop_s`, if given, replaces this host's calibrated software time per
    hop; results that do not measure this host use the nominal time. `called` is the policy's name in the data where it
    is not that of `policy`, such as for a policy with options.
    """

    experiment: str  # file name below experiments/
    policy: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)
    hop_s: float | None = None
    called: str | None = None

    @property
    def overrides(self) -> list[str]:
        """The overrides in the form of `--set`, with `dilation: 1`, as for all recorded runs."""
        return [f"{key}={json.dumps(value)}" for key, value in {"dilation": 1, **self.settings}.items()]

    @property
    def command(self) -> str:
        """The command that simulates this run alone."""
        words = [f"testbed replay experiments/{self.experiment} --backend sim", f"--policy {self.policy}"]
        return " ".join([*words, f"--seed {self.seed}", *(f"--set '{one}'" for one in self.overrides)])

    def load(self) -> Experiment:
        """The checked experiment."""
        overrides = [*self.overrides, f"policy={json.dumps(self.policy)}", f"seed={self.seed}"]
        return Experiment.load(EXPERIMENTS / self.experiment, overrides)


def simulated(experiment: str, called: str, seed: int, settings: Mapping[str, Any], said: Mapping[str, Any]) -> Planned:
    """A simulated run of a policy or variant with the nominal time per hop."""
    policy, options = VARIANTS.get(called, (called, {}))
    return Planned(experiment, policy, seed, {**settings, **options}, said, NOMINAL_HOP_S, called)


def run(planned: Planned, backend: str = "sim", keep: Path | None = None) -> dict[str, Any]:
    """Carry out a run and return its row. `keep` receives the run folder; without it, the folder is removed."""
    experiment = planned.load()
    row = {
        **planned.said,
        "policy": planned.called or planned.policy,
        "seed": planned.seed,
        "tokens_asked": experiment.tokens,
    }
    emulated = find_backend(backend).emulated
    try:
        check_experiment(experiment, computed=emulated)
    except NothingFits as error:
        return row | {"status": "failed", "error_kind": "Infeasible", "error": str(error), "tokens_done": 0}
    folder = keep or Path(tempfile.mkdtemp(prefix="headroom-result-"))
    host = None if planned.hop_s is None else HostCalibration(hop_overhead_s=planned.hop_s)
    try:
        request = RunRequest(experiment, backend, folder, calibrate="quick" if emulated else "off")
        summary = carry_out(request, tell_nobody, host)
        row |= {key: tidy(summary).get(key) for key in KEPT}
        row |= {key: summary[key] for key in ("downtime_s", "recovery_s") if key in summary}
        row["tokens_done"] = len(summary["tokens"])
        left = analysis.load(summary["path"], ("decisions", "devices", "recoveries"))
        row["kept_rows"] = int(left.recoveries["kept_rows"].sum())
        row["most_memory_share"] = _memory_share(left.devices)
        row["wrong_moves"] = _wrong_moves(left.decisions)
        if keep is not None:
            row["run"] = summary["run"]
            row["verdict_ok"] = summary["verdict"]["ok"]
            row["verdict_reasons"] = "; ".join(summary["verdict"]["reasons"])
    except ConfigError as error:  # carry_out raises it with the summary written
        row |= {"status": "failed", "error_kind": type(error).__name__, "error": str(error), "tokens_done": 0}
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return row


def _memory_share(devices: pd.DataFrame) -> float | None:
    """The largest share of its budget that any device used at any time; None if nothing was placed."""
    devices = devices.dropna(subset=["ledger_bytes", "budget_bytes"])
    devices = devices[devices["budget_bytes"] > 0]
    return float((devices["ledger_bytes"] / devices["budget_bytes"]).max()) if len(devices) else None


def _wrong_moves(decisions: pd.DataFrame) -> int:
    """Decisions that moved blocks although staying was possible and, by what was true, better for the rest of a run."""
    return int((decisions["gain_s"].astype(float) < 0).sum())


def collect_runs(parts: Parts, planned: Sequence[Planned], label: str, stop_after_s: float | None) -> None:
    """Simulate the missing runs in order until the time is up."""
    started = time.monotonic()
    with bar(len(planned), label) as told:
        for number, one in enumerate(planned):
            key = part_key(one)
            if parts.find(key) is None:
                if stop_after_s is not None and time.monotonic() - started > stop_after_s:
                    return
                begun = time.monotonic()
                row = run(one)
                parts.put(key, [row], time.monotonic() - begun)
            told(number + 1)


def part_key(planned: Planned) -> str:
    """The file name of a run, made of the columns that identify it."""
    words = [
        *(str(value) for value in planned.said.values()),
        planned.called or Path(planned.policy).name,
        f"seed{planned.seed}",
    ]
    return "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)


def found_rows(parts: Parts, planned: Iterable[Planned]) -> list[dict[str, Any]]:
    """The rows of the finished runs, in the order of the plan."""
    return [row for one in planned for row in parts.find(part_key(one)) or []]


def missing(parts: Parts, planned: Iterable[Planned]) -> int:
    """The number of runs that are missing."""
    return sum(parts.find(part_key(one)) is None for one in planned)
