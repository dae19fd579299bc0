"""The runs in a folder, and how each ended."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.runlog.documents import NewerFormat, NotARun, Summary, read_keys
from testbed.runlog.folder import is_run_folder, read_lines

DEFAULT_FOLDER = Path("runs")


def list_runs(folder: Path = DEFAULT_FOLDER, links: bool = True) -> list[dict[str, Any]]:
    """Return a row for each run in the folder and its subfolders, oldest first.

    Without `links`, runs that only a link leads to are skipped. A run that did not reach its end has the status
    `unfinished`, and the tokens on file. A run folder that cannot be read has the status `damaged`, and one of a newer
    version `too new`; the reason is its `error`. Raises ConfigError if the folder does not exist.
    """
    rows = []
    for run in _find_runs(folder, links):
        with suppress(NotARun):
            rows.append(describe_run(run, folder))
    return rows


def describe_run(run: Path, folder: Path) -> dict[str, Any]:
    """Return the row of one run; its name is relative to `folder`. Raises NotARun."""
    row: dict[str, Any] = {"name": str(run.relative_to(folder)), "path": str(run), "size_bytes": _size_bytes(run)}
    try:
        return row | _read_run(run)
    except NotARun:
        raise
    except NewerFormat as error:
        return row | {"status": "too new", "error": str(error)}
    except ConfigError as error:
        return row | {"status": "damaged", "error": str(error)}
    except OSError as error:
        return row | {"status": "damaged", "error": f"{error.filename or run}: {error.strerror}"}


def _find_runs(folder: Path, links: bool) -> list[Path]:
    """Find run folders in `folder` and one level below, oldest first by the time in their names."""
    if not folder.is_dir():
        if folder == DEFAULT_FOLDER:
            return []
        raise ConfigError(f"{folder} is no folder: give one that `testbed replay --out` or `compare --out` wrote to")
    children = [child for child in folder.iterdir() if child.is_dir() and (links or not child.is_symlink())]
    below = [child for parent in children if not _is_run(parent) for child in _entries(parent)]
    found = (run for run in [*children, *below] if (links or not run.is_symlink()) and _is_run(run))
    return sorted(found, key=lambda run: (run.name, run))


def _is_run(folder: Path) -> bool:
    """Say whether this is a run's folder; a folder that may not be read is none."""
    try:
        return is_run_folder(folder)
    except OSError:
        return False


def _entries(folder: Path) -> list[Path]:
    """Return what the folder holds; nothing if it may not be read, or is gone."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _read_run(run: Path) -> dict[str, Any]:
    manifest, summary = read_keys(run)
    experiment = manifest.experiment
    told = [found for found in (summary, manifest, experiment) if found is not None]
    ended = summary or Summary()
    tokens = ended.tokens
    model = experiment.model if experiment is not None else None
    return {
        "created": manifest.created,
        "experiment": manifest.experiment_name or (experiment.name if experiment is not None else None),
        "model": None if model is None else model.preset or Path(model.path or "").name or None,
        "status": ended.status or "unfinished",
        **{key: _first(getattr(found, key, None) for found in told) for key in ("policy", "backend", "seed")},
        "tokens": sum(1 for _ in read_lines(run / "tokens.jsonl")) if tokens is None else len(tokens),
        "mean_token_ms": ended.mean_token_ms,
        "migrations": ended.migrations,
        "verdict_ok": ended.verdict and ended.verdict.ok,
    }


def _first(values: Iterable[Any]) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def _size_bytes(run: Path) -> int:
    """The bytes of all files in a run's folder; what cannot be read counts as none."""
    return sum(entry.stat().st_size for entry in _entries(run) if entry.is_file() and not entry.is_symlink())
