"""Emulates drawn cells under two policies each and compares times, and ratios of policies, with their predictions.

`sudo .venv/bin/python -m benchmarks.results.emulated` calibrates this host, makes the runs that are missing and saves
the table. It needs root and a host on which nothing else runs. It may be stopped at any time: a run that has ended is
kept, and the same command goes on. A run that fails is recorded, the next one begins, and the next call tries it again.
`--estimate` says how long it will take and does nothing else; `--draw` draws the cells anew.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.results import emulated_cells, store
from benchmarks.results.emulated_cells import Cell, foresee
from testbed import analysis
from testbed.controller import calibration
from testbed.errors import TestbedError
from testbed.placement.policies import make_policy
from testbed.running.calibrate import calibrate
from testbed.running.carry_out import carry_out
from testbed.running.remarks import tell_nobody
from testbed.running.request import RunRequest

NAME = "emulated"
CALIBRATION = "calibration"  # without `.json`, which is the suffix of parts
MS = 1e3
CALIBRATING_S, STARTING_S = 75.0, 6.0  # wall seconds on a machine with two cores, for the estimate only


class Run(NamedTuple):
    """One emulated run of a cell."""

    cell: Cell
    policy: str
    repetition: int

    @property
    def key(self) -> str:
        """The name of this run's part."""
        return f"{self.cell.key}-{self.policy}-{self.repetition}"

    @property
    def takes_s(self) -> float:
        """About how long it takes, in wall seconds."""
        return STARTING_S + self.cell.wall_s[self.cell.policies.index(self.policy)]


def planned(cells: Sequence[Cell]) -> list[Run]:
    """All runs: every cell once under both policies, one after the other, then the repetitions."""
    return [Run(cell, policy, repetition) for repetition in range(emulated_cells.REPETITIONS) for cell in cells
            if repetition < cell.repetitions for policy in _order(cell, repetition)]  # fmt: skip


def _order(cell: Cell, repetition: int) -> list[str]:
    """The policies in a random order, so that a host that drifts favours none of them."""
    return random.Random(f"{cell.key}/{repetition}").sample(cell.policies, 2)


def missing(parts: store.Parts, runs: Sequence[Run]) -> list[Run]:
    """The runs that have no part, or that failed."""
    return [run for run in runs if any(row["status"] != "done" for row in parts.find(run.key) or [{"status": None}])]


def estimate(parts: store.Parts, runs: Sequence[Run]) -> str:
    """A sentence about what is missing and how long that takes."""
    left = missing(parts, runs)
    calibrating_s = 0.0 if (parts.folder / CALIBRATION).exists() else CALIBRATING_S
    seconds = calibrating_s + sum(run.takes_s for run in left)
    return f"{len(left)} of {len(runs)} runs are missing; they take about {seconds / 60:.0f} minutes."


def main() -> None:
    """Calibrate, make the missing runs, and save the table."""
    parser = store.arguments(NAME, __doc__)
    parser.add_argument("--estimate", action="store_true", help="say how long it will take and do nothing else")
    parser.add_argument("--draw", action="store_true", help="draw the cells anew and do nothing else")
    options = parser.parse_args()
    if options.draw:
        print(f"{len(emulated_cells.draw())} cells: {emulated_cells.FILE}")
        return
    parts, runs = store.Parts(options.parts), planned(emulated_cells.load())
    print(estimate(parts, runs), flush=True)
    if options.estimate:
        return
    file = parts.folder / CALIBRATION
    os.environ[calibration.PATH_VARIABLE] = str(file)
    if not file.exists():
        calibrate("mininet", tell=print)
    try:
        collect(parts, runs, options.seconds)
    finally:
        save(parts, runs)


def collect(parts: store.Parts, runs: Sequence[Run], stop_after_s: float | None) -> None:
    """Make the missing runs until the time is up, and print a line for each."""
    for policy in {run.policy for run in runs}:
        make_policy(policy, {}).reset(0)  # compiles its search if needed
    started, left = time.monotonic(), missing(parts, runs)
    for number, run in enumerate(left, 1):
        begun = time.monotonic()
        if stop_after_s is not None and begun - started > stop_after_s:
            return
        row = attempted(run, parts.folder / "runs")
        seconds = time.monotonic() - begun
        parts.put(run.key, [row], seconds)
        rest_s = sum(one.takes_s for one in left[number:])
        told = f"{row['emulated_ms']:.1f} ms, predicted {row['predicted_ms']:.1f}" if "emulated_ms" in row else ""
        print(f"{number}/{len(left)} {run.key}: {row['status']} {told} {row['reason']} [{seconds:.0f} s, "
              f"about {rest_s / 60:.0f} min to go]", flush=True)  # fmt: skip


def attempted(run: Run, folder: Path) -> dict[str, Any]:
    """Make one run and return its row, also if it fails."""
    known = {"cell": run.cell.key, "policy": run.policy, "repetition": run.repetition}
    try:
        return known | measured(run, folder)
    except (TestbedError, OSError, ValueError, KeyError) as error:  # the other runs are not to be lost
        return known | {"status": "failed", "reason": f"{type(error).__name__}: {error}"}


def measured(run: Run, folder: Path) -> dict[str, Any]:
    """Emulate one run on Mininet and return what was found."""
    experiment = run.cell.experiment(run.policy)
    host = calibration.host_calibration()
    summary = carry_out(RunRequest(experiment, "mininet", folder), tell_nobody, host)
    found: dict[str, Any] = {"status": summary["status"], "reason": summary.get("error") or ""}
    if summary["status"] == "done":
        tokens = analysis.load(summary["path"]).decoded
        found |= {
            "emulated_ms": tokens["latency_s"].median() * MS,
            "predicted_ms": tokens["predicted_s"].median() * MS,
            "lowest_ms": tokens["latency_s"].quantile(0.1) * MS,
            "highest_ms": tokens["latency_s"].quantile(0.9) * MS,
            "token_error": float(summary["prediction_error"]),
            "ttft_ms": summary["ttft_ms"],
            "migrations": summary["migrations"],
            "held": foresee(experiment, host).held,
            "verdict_ok": summary["verdict"]["ok"],
            "reason": "; ".join(summary["verdict"]["reasons"]),
            "notes": "; ".join(summary["verdict"]["notes"]),
        }
    shutil.rmtree(summary["path"], ignore_errors=True)
    return found


def rows(parts: store.Parts, runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """A row for each run that was made, with the columns of its cell."""
    for run in runs:
        cell = run.cell
        for row in parts.find(run.key) or []:
            yield {
                "model": cell.model, "devices": cell.devices, "memory": cell.memory, "context": cell.context,
                "delay_ms": cell.delay_ms, "rate_Mbps": cell.rate_Mbps, "streaming_MBps": cell.streaming_MBps,
                "seed": cell.seed, "dilation": cell.dilation, "tokens": cell.tokens,
                "first": run.policy == cell.policies[0], **row,
            }  # fmt: skip


def save(parts: store.Parts, runs: Sequence[Run]) -> None:
    """Write the table from the runs that were made."""
    found = calibration.host_calibration()
    store.save(NAME, pd.DataFrame(rows(parts, runs)), store.how_obtained(
        f"sudo .venv/bin/python -m benchmarks.results.{NAME}", "emulated", parts.seconds(),
        sorted({run.cell.seed for run in runs}),
        [f"calibrated before: {found.hop_overhead_s * 1e3:.3f} ms of software for a hop"],
        commit=parts.commits(), runs_missing=len(missing(parts, runs)), cells=len({run.cell.key for run in runs}),
    ))  # fmt: skip


def section(frame: pd.DataFrame, how: store.How) -> str:
    """The section of the page on emulated cells."""
    from benchmarks.results import emulated_tables

    return emulated_tables.section(frame, how)


if __name__ == "__main__":
    main()
