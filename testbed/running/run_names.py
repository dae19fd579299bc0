"""Finds the run that a path or a name means, and says what was probably meant if there is none."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from testbed.runlog.folder import is_run_folder
from testbed.running.run_list import DEFAULT_FOLDER
from testbed.strict_yaml import suggest


def find_run(name: str | Path) -> Path:
    """Return the run folder that a path means, or a name in the folder `runs`; raises ConfigError if there is none."""
    path = Path(name)
    for folder in (path, DEFAULT_FOLDER / path):
        if folder.is_dir() and is_run_folder(folder):
            return folder
    if path.is_dir():
        inside = run_names(path)
        there = f"it holds {len(inside)}, such as {path / inside[-1]}" if inside else "it has no manifest.json"
        raise ConfigError(f"{name} is no run folder: {there}")
    if path.exists():
        raise ConfigError(f"{name} is a file, but a run is a folder: give one that `testbed replay` made")
    known = [str(path.parent / inside) for inside in run_names(path.parent)]
    if path.parent == Path():
        known += run_names(DEFAULT_FOLDER)
    hint = suggest(str(name), known) or "; `testbed runs` lists those in the folder runs"
    raise ConfigError(f"{name}: there is no such run{hint}")


def run_names(folder: Path) -> list[str]:
    """Return the names of the run folders in a folder, oldest first; none if it cannot be read."""
    try:
        return sorted(child.name for child in folder.iterdir() if is_run_folder(child))
    except OSError:
        return []
