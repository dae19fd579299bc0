"""`testbed runs`: what has been run, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.show import echo, json_option, print_json, print_table
from testbed.errors import ConfigError


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs) and in the folders in it, oldest first.

    Example: testbed runs runs/demo --json
    """
    rows = [_describe(run, folder) for run in _find_runs(folder)]
    if as_json:
        print_json(rows)
    elif not rows:
        echo(f"There is no run in {folder}; `testbed replay` makes one.")
    else:
        headings = {"name": "run", "status": "status", "policy": "policy", "backend": "backend"}
        headings |= {"tokens": "tokens", "mean_token_ms": "mean ms", "migrations": "migrations"}
        print_table(headings, rows)


def _find_runs(folder: Path) -> list[Path]:
    """Run folders in `folder` and one level below, where `compare` puts its own; by the time in their name."""
    from testbed.runlog import is_run_folder

    if not folder.is_dir():
        if folder == Path("runs"):
            return []
        raise ConfigError(f"{folder} is no folder: give one that `testbed replay --out` or `compare --out` wrote to")
    children = [child for child in folder.iterdir() if child.is_dir()]
    below = [child for parent in children if not is_run_folder(parent) for child in parent.iterdir()]
    return sorted((run for run in [*children, *below] if is_run_folder(run)), key=lambda run: (run.name, run))


def _describe(run: Path, folder: Path) -> dict[str, Any]:
    """One row; a run that did not come to its end is `unfinished` and its tokens are those on file."""
    from testbed.runlog import MANIFEST, SUMMARY, read_json

    row: dict[str, Any] = {"name": str(run.relative_to(folder)), "path": str(run)}
    try:
        manifest = read_json(run / MANIFEST)
        summary = read_json(run / SUMMARY) if (run / SUMMARY).exists() else {}
    except ConfigError as error:
        return row | {"status": "damaged", "error": str(error)}
    experiment = manifest.get("experiment")
    told = (experiment if isinstance(experiment, dict) else {}) | manifest | summary
    return row | {
        "status": told.get("status", "unfinished") if summary else "unfinished",
        "policy": told.get("policy"),
        "backend": told.get("backend"),
        "seed": told.get("seed"),
        "tokens": len(summary["tokens"]) if isinstance(summary.get("tokens"), list) else _tokens_on_file(run),
        "mean_token_ms": summary.get("mean_token_ms"),
        "migrations": summary.get("migrations"),
        "verdict_ok": (summary.get("verdict") or {}).get("ok"),
    }


def _tokens_on_file(run: Path) -> int:
    from testbed.runlog import read_lines

    return sum(1 for _ in read_lines(run / "tokens.jsonl"))
