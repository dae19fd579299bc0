"""What one run was and how it ended, and how two runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.runlog.folder import TABLES, find_table, read_manifest, read_summary
from testbed.running.run_list import describe_run
from testbed.running.run_names import find_run

FIGURES = {
    "tokens": "tokens", "ttft_ms": "first token (ms)", "mean_token_ms": "mean token (ms)",
    "token_latency_ms.p50": "p50 (ms)", "token_latency_ms.p95": "p95 (ms)", "token_latency_ms.p99": "p99 (ms)",
    "tokens_per_s": "tokens per second", "total_s": "total (s)", "stall_s": "stall (s)",
    "decision_ms": "deciding (ms)", "migrations": "migrations", "migrated_bytes": "bytes migrated",
    "wire_bytes": "bytes on links", "prediction_error": "prediction error (share)", "overruns": "overruns",
    "oom_kills": "OOM kills", "joules": "energy (J)", "joules_per_token": "energy per token (J)",
}  # fmt: skip
"""Key of a summary -> what it is called."""

_ENVIRONMENT = ("testbed", "host", "calibration", "formats", "facts")
"""Keys of a manifest that say where and with what a run was carried out."""


def show_run(run: str | Path) -> dict[str, Any]:
    """Return what a run was and how it ended: its row in the list, its settings, figures, verdict and files."""
    folder = find_run(run)
    row = describe_run(folder, folder.parent)
    if "error" in row and row["status"] in ("damaged", "too new"):
        return row
    manifest, summary = read_manifest(folder), read_summary(folder) or {}
    experiment = manifest.get("experiment") or {}
    topology = experiment.get("topology") or {}
    verdict = summary.get("verdict") or {}
    return row | {
        "error": summary.get("error"),
        "weights": manifest.get("model_weights"),
        "topology": topology.get("name"),
        "devices": list(topology.get("devices") or ()),
        "traces": [trace.get("name") for trace in experiment.get("traces") or ()],
        "tokens_asked": experiment.get("tokens"),
        "verified": summary.get("verified"),
        "figures": {told: figure(summary, key) for key, told in FIGURES.items()},
        "reasons": verdict.get("reasons") or [],
        "notes": verdict.get("notes") or [],
        "files": {
            path.name: path.stat().st_size for table in TABLES if (path := find_table(folder, table)) is not None
        },
    }


def figure(summary: Mapping[str, Any], key: str) -> Any:
    """Return a figure of a summary by its dotted key; a list counts as its length."""
    value: Any = summary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return len(value) if isinstance(value, list) else value


def diff_runs(one: str | Path, other: str | Path) -> dict[str, Any]:
    """Return how two runs differ: in settings, in where they ran, in figures and in their first tokens.

    `settings` and `environment` have (dotted key -> [value of one, value of the other]), only where they differ.
    `figures` has all figures of either run, with `ratio`, the second over the first. `first_different_token` is the
    number of the first token that differs; None if no token of both differs, or if they have no ids.
    """
    folders = find_run(one), find_run(other)
    manifests = [read_manifest(folder) for folder in folders]
    summaries = [read_summary(folder) or {} for folder in folders]
    settings = [_flat(_settings(manifest)) for manifest in manifests]
    environment = [_flat({key: manifest.get(key) for key in _ENVIRONMENT}) for manifest in manifests]
    figures = {}
    for key, told in FIGURES.items():
        first, second = (figure(summary, key) for summary in summaries)
        if first is not None or second is not None:
            figures[told] = {"one": first, "other": second, "ratio": second / first if first and second else None}
    return {
        "one": str(folders[0]),
        "other": str(folders[1]),
        "status": [summary.get("status", "unfinished") for summary in summaries],
        "settings": _differences(*settings),
        "environment": _differences(*environment),
        "figures": figures,
        "first_different_token": _first_difference(*(summary.get("tokens") or [] for summary in summaries)),
    }


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return dict(manifest.get("experiment") or {}) | {key: manifest.get(key) for key in ("backend", "policy", "seed")}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys; a list stays whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    keys = dict.fromkeys([*one, *other])
    return {key: [one.get(key), other.get(key)] for key in keys if one.get(key) != other.get(key)}


def _first_difference(one: list[int | None], other: list[int | None]) -> int | None:
    for step, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second and first is not None and second is not None:
            return step
    return None
