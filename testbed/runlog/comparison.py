"""Compares many runs: paired means with bootstrap intervals, and one tidy table.

A row is the summary of a run. An instance is a set of runs on one backend that differ only in the policy. A mean covers
the instances that all compared policies finished, so no policy looks better by failing the hard ones; the other runs
are counted. This module does not know how a run is carried out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from testbed.files import make_folder
from testbed.runlog.summary import MS

Row = Mapping[str, Any]

EXACT = "exact"
SAMPLES = 10_000  # bootstrap resamples
BOOTSTRAP_SEED = 0
COVERED = (2.5, 97.5)  # percentiles of a 95 % interval
COST = "mean_token_with_stall_ms"  # what a policy optimises: a token with its share of the migrations

FIRST = "first_placement_ms"  # a token's time before the second decision, which later decisions cannot mend

OPTIMUM, BOUND, RUN = "optimum", "bound", "run"


class Least(NamedTuple):
    """What a token of an instance takes at least, its share of the migrations included."""

    ms: float
    basis: str  # OPTIMUM: some run takes no more; BOUND: no run takes less; RUN: it is the run of `exact`
    best_ms: float  # of the best run that is known


SCALARS = (
    "mean_token_ms", COST, FIRST, "ttft_ms", "total_s", "stall_s", "decision_ms", "migrations", "migrated_bytes",
    "wire_bytes", "oom_kills", "prediction_error", "overruns", "joules", "joules_per_token",
)  # fmt: skip


def infeasible_row(policy: str, backend: str, experiment: str, seed: int, error: str) -> dict[str, Any]:
    """The row of a run that was not started because no placement can fit."""
    return {
        "run": None, "path": None, "backend": backend, "policy": policy, "experiment": experiment, "seed": seed,
        "status": "failed", "error": error, "error_kind": "Infeasible", "tokens": [],
    }  # fmt: skip


def per_policy(rows: Sequence[Row], least: Mapping[str, Mapping[int, Least]] | None = None) -> list[dict[str, Any]]:
    """A row for each backend and policy, in the order of their first runs.

    `instances` are the seeds that the means cover. A policy that finished no run does not affect their choice. `least`
    has, by backend and seed, what ratios are relative to; without it that is the run of `exact`.
    """
    table = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        runs = {
            policy: [row for row in rows if (row["backend"], row["policy"]) == (backend, policy)]
            for policy in dict.fromkeys(row["policy"] for row in rows if row["backend"] == backend)
        }
        finished = {policy: _finished(found) for policy, found in runs.items()}
        common = _common(list(finished.values()))
        known = {seed: Least(row[COST], RUN, row[COST]) for seed, row in finished.get(EXACT, {}).items()}
        known |= (least or {}).get(backend, {})
        for policy, found in runs.items():
            row = _summed_up(policy, backend, found, finished[policy], common, known)
            table.append(row | _beside_exact(finished[policy], finished.get(EXACT, {}), row["instances"]))
    return table


def _finished(rows: Sequence[Row]) -> dict[int, Row]:
    """The finished runs with at least one decode token, by seed."""
    return {row["seed"]: row for row in rows if row["status"] == "done" and row.get("mean_token_ms") is not None}


def _common(finished: Sequence[Mapping[int, Row]]) -> list[int]:
    some = [set(found) for found in finished if found]
    return sorted(set.intersection(*some)) if some else []


def _summed_up(
    policy: str,
    backend: str,
    runs: Sequence[Row],
    own: Mapping[int, Row],
    common: list[int],
    least: Mapping[int, Least],
) -> dict[str, Any]:
    seeds = common if own else []
    mean, interval = mean_with_interval([own[seed]["mean_token_ms"] for seed in seeds])
    known = least if all(seed in least for seed in seeds) else {}
    ratio, ratio_interval = mean_with_interval([own[seed][COST] / known[seed].ms for seed in seeds if known])
    deciding, deciding_interval = mean_with_interval(
        [_with_deciding_ms(own[seed]) / known[seed].ms for seed in seeds if known]
    )
    peaks = [row.get("peak_memory_bytes") or {} for row in runs]
    return {
        "policy": policy,
        "backend": backend,
        "runs": len(runs),
        "infeasible": sum(row.get("error_kind") == "Infeasible" for row in runs),
        "oom": sum(row["status"] == "oom" for row in runs),
        "failed": sum(row["status"] == "failed" and row.get("error_kind") != "Infeasible" for row in runs),
        "instances": seeds,
        "mean_token_ms": mean,
        "ci95_token_ms": interval,
        "ratio_to_exact": ratio,
        "ci95_ratio": ratio_interval,
        "ratio_with_decisions": deciding,
        "ci95_ratio_with_decisions": deciding_interval,
        "exact_within": mean_with_interval([known[seed].best_ms / known[seed].ms - 1 for seed in seeds if known])[0],
        "exact_is": dict(Counter(known[seed].basis for seed in seeds if known)),
        "peak_memory_bytes": {device: max(peak.get(device, 0) for peak in peaks) for peak in peaks for device in peak},
        "migrations": mean_with_interval([own[seed]["migrations"] for seed in seeds])[0],
        "decision_ms": mean_with_interval([own[seed]["decision_ms"] for seed in seeds])[0],
        "joules_per_token": _mean_of_known([own[seed].get("joules_per_token") for seed in seeds]),
    }


def _beside_exact(own: Mapping[int, Row], exact: Mapping[int, Row], seeds: list[int]) -> dict[str, Any]:
    """The ratio to the run of `exact`, which decides interval by interval and so can be beaten, and the first gap."""
    ratio, interval = mean_with_interval([own[seed][COST] / exact[seed][COST] for seed in seeds if exact])
    gap, gap_interval = mean_with_interval(
        [own[seed][FIRST] / exact[seed][FIRST] - 1 for seed in seeds if exact and exact[seed].get(FIRST)]
    )
    return {
        "ratio_to_exact_run": ratio, "ci95_ratio_to_exact_run": interval,
        "first_placement_gap": gap, "ci95_first_placement_gap": gap_interval,
    }  # fmt: skip


def _with_deciding_ms(row: Row) -> float:
    """A decode token with its share of the stalls and of the deciding, also where the run's own figures have both."""
    return float(row["mean_token_ms"] + (MS * row["stall_s"] + row["decision_ms"]) / max(1, len(row["tokens"]) - 1))


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean; None if a value is not known."""
    known = [value for value in values if value is not None]
    return mean_with_interval(known)[0] if len(known) == len(values) else None


def mean_with_interval(values: Sequence[float]) -> tuple[float | None, list[float] | None]:
    """The mean and its 95 % bootstrap interval; fewer than two values have no interval.

    All calls with the same number of values resample the same positions, so policies stay paired.
    """
    import numpy as np

    if not values:
        return None, None
    numbers = np.asarray(values, dtype=float)
    if len(numbers) < 2:
        return float(numbers.mean()), None
    positions = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(numbers), (SAMPLES, len(numbers)))
    low, high = np.percentile(numbers[positions].mean(axis=1), COVERED)
    return float(numbers.mean()), [float(low), float(high)]


def tidy(row: Row) -> dict[str, Any]:
    """A run in plain columns: names, status, all figures that are one number, and the largest memory of a device."""
    latency = row.get("token_latency_ms") or {}
    peaks = row.get("peak_memory_bytes") or {}
    flat = {key: row.get(key) for key in ("experiment", "policy", "backend", "seed", "status", "error_kind", "error")}
    flat |= {"tokens": len(row["tokens"])} | {key: row.get(key) for key in SCALARS}
    flat |= {f"{name}_token_ms": latency.get(name) for name in ("p50", "p95", "p99")}
    flat |= {"peak_memory_bytes": max(peaks.values(), default=None), "run": row.get("run"), "path": row.get("path")}
    return flat


def write_tidy(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows of plain columns as one Parquet file, which replaces an older one in one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = dict.fromkeys(key for row in rows for key in row)
    table = pa.table({key: _column([row.get(key) for row in rows]) for key in columns})
    make_folder(path.parent)
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    pq.write_table(table, half)
    half.replace(path)


def _column(values: list[Any]) -> Any:
    """An Arrow column; mixed types become text, because a swept key can be 4 in one run and `none` in another."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
