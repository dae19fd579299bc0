"""Removes run folders, and nothing else: only files that a run writes, only from folders that runs made.

A folder that holds other files keeps them. A run that may still be going on is refused. The manifest goes last, so that
what is left of an interrupted removal is still a run.
"""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

from testbed.errors import ConfigError, EnvironmentLacks
from testbed.runlog.folder import EVENTS, MANIFEST, SUMMARY, TABLES
from testbed.runlog.journal import JOURNAL
from testbed.runlog.writing import RESERVE
from testbed.running.device_command import LIVE
from testbed.running.going_on import is_up
from testbed.running.run_list import describe_run
from testbed.running.run_names import find_run

QUIET_S = 600.0  # a run without a summary whose files changed in this time may be going on
_DOCUMENTS = (MANIFEST, SUMMARY, EVENTS, JOURNAL, RESERVE, LIVE)
_TABLE_FILES = tuple(f"{table}.{suffix}" for table in TABLES for suffix in ("jsonl", "parquet"))
_HALF = re.compile(r"\.(.+)\.\d+")  # a document or table that was being replaced


def remove_run(run: str | Path, force: bool = False) -> list[str]:
    """Remove a run; returns the names of what is left in its folder because no run writes it, which stays with it.

    With `force`, a run that may be going on is removed as well, unless its controller is known to live. Raises
    ConfigError for what is no run folder or may not be removed, and EnvironmentLacks if a file cannot be.
    """
    folder = find_run(run)
    describe_run(folder, folder.parent)  # which refuses what is none
    refuse_going_on(folder, force)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        why = "it is a link: remove the link, or give the folder it leads to" if folder.is_symlink() else error.strerror
        raise ConfigError(f"{folder} cannot be removed: {why}") from error
    try:
        names = sorted(os.listdir(descriptor), key=lambda name: name == MANIFEST)
        left = [name for name in names if not _is_ours(name, descriptor)]
        for name in names:
            if name not in left:
                os.unlink(name, dir_fd=descriptor)
        if not left:
            folder.rmdir()
    except OSError as error:
        raise EnvironmentLacks(f"{folder / str(error.filename or '')} cannot be removed: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return left


def refuse_going_on(folder: Path, force: bool = False) -> None:
    """Raise ConfigError if a run is going on, or may be and `force` is not given."""
    if is_up(folder):
        raise ConfigError(f"{folder} is going on: stop it first")
    if force or (folder / SUMMARY).exists():
        return
    changed = max((_changed_at(entry) for entry in [folder, *folder.iterdir()]), default=0.0)
    if time.time() - changed < QUIET_S:
        raise ConfigError(
            f"{folder} has no summary and changed {time.time() - changed:.0f} s ago, so it may be going on: wait, or "
            "give --force"
        )


def _changed_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _is_ours(name: str, folder: int) -> bool:
    """Whether a run writes a file of this name, and it is a file."""
    half = _HALF.fullmatch(name)
    if (half[1] if half is not None else name) not in (*_DOCUMENTS, *_TABLE_FILES):
        return False
    return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
