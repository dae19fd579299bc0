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
        for row in rows:
            if "error" in row:
                echo(f"{row['name']} is {row['status']}: {row['error']}.")


def _find_runs(folder: Path) -> list[Path]:
    """Run folders in `folder` and one level below, where `compare` puts its own; by the time in their name."""
    if not folder.is_dir():
        if folder == Path("runs"):
            return []
        raise ConfigError(f"{folder} is no folder: give one that `testbed replay --out` or `compare --out` wrote to")
    children = [child for child in folder.iterdir() if child.is_dir()]
    below = [child for parent in children if not _is_run(parent) for child in _inside(parent)]
    return sorted((run for run in [*children, *below] if _is_run(run)), key=lambda run: (run.name, run))


def _is_run(folder: Path) -> bool:
    """Whether it is a run's folder; one that may not be looked into is none."""
    from testbed.runlog.folder import is_run_folder

    try:
        return is_run_folder(folder)
    except OSError:
        return False


def _inside(folder: Path) -> list[Path]:
    """What a folder holds; nothing where it may not be looked into, or is gone."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _describe(run: Path, folder: Path) -> dict[str, Any]:
    """One row; a run that did not come to its end is `unfinished` and its tokens are those on file.

    One that cannot be read is `damaged`, and one of a newer version `too new`, with the reason as its error.
    """
    from testbed.runlog.folder import NewerFormat

    row: dict[str, Any] = {"name": str(run.relative_to(folder)), "path": str(run)}
    try:
        return row | _what_it_says(run)
    except NewerFormat as error:
        return row | {"status": "too new", "error": str(error)}
    except ConfigError as error:
        return row | {"status": "damaged", "error": str(error)}
    except OSError as error:
        return row | {"status": "damaged", "error": f"{error.filename or run}: {error.strerror}"}


def _what_it_says(run: Path) -> dict[str, Any]:
    from testbed.runlog.folder import read_lines, read_manifest, read_summary

    manifest = read_manifest(run)
    summary = read_summary(run)
    told = (manifest.get("experiment") or {}) | manifest | (summary or {})
    tokens = (summary or {}).get("tokens")
    return {
        "status": "unfinished" if summary is None else told.get("status", "unfinished"),
        "policy": told.get("policy"),
        "backend": told.get("backend"),
        "seed": told.get("seed"),
        "tokens": sum(1 for _ in read_lines(run / "tokens.jsonl")) if tokens is None else len(tokens),
        "mean_token_ms": told.get("mean_token_ms"),
        "migrations": told.get("migrations"),
        "verdict_ok": (told.get("verdict") or {}).get("ok"),
    }
