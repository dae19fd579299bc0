"""Exports a run for other programs."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from testbed.runlog.documents import refused_if_damaged
from testbed.runlog.folder import read_manifest, read_rows
from testbed.running.run_names import find_run


def export_trace(run: str | Path, out: str | Path, first: int = 0, last: int | None = None) -> dict[str, int]:
    """Write a run as a trace that Perfetto opens, and return how many things of each kind it has.

    `first` and `last` choose tokens. The operations and messages of a simulated run are recomputed with the
    cost model, because its table of spans is empty. Raises ConfigError for a folder that is no run or is damaged, and
    for tokens that it does not have.

    Example: `export_trace("runs/20260101T000000Z-quickstart-static", "trace.json", 40, 56)`
    """
    folder = find_run(run)
    with refused_if_damaged(folder):
        return _export_trace(folder, out, first, last)


def _export_trace(folder: Path, out: str | Path, first: int, last: int | None) -> dict[str, int]:
    from testbed.analysis.trace_events import write_trace

    manifest = read_manifest(folder)
    every = read_rows(folder, "tokens")
    tokens = [row for row in every if first <= row["step"] and (last is None or row["step"] <= last)]
    if not tokens:
        has = f"it has {every[0]['step']} to {every[-1]['step']}" if every else "it has none"
        raise ConfigError(f"{folder} has no token from {first} to {'its end' if last is None else last}: {has}")
    spans = None
    if manifest.get("provenance") == "simulated":
        from testbed.running.modelled_spans import SimulatedTokens

        spans = SimulatedTokens.of(folder, manifest).spans(tokens)
    return write_trace(folder, Path(out), first, last, spans)
