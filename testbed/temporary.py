"""Temporary folders of which a killed process leaves nothing for long: the next one of its kind removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = ".headroom"
"""The file that makes such a folder ours. As long as the folder is in use, a process holds a lock on it."""


@contextmanager
def temporary_folder(prefix: str, base: Path | None = None) -> Iterator[Path]:
    """A folder of a name that begins so, removed at the end; what killed processes left of this kind is removed first.

    Raises OSError if none can be made in `base`, which is by default the folder for temporary files.
    """
    base = Path(tempfile.gettempdir()) if base is None else base
    remove_abandoned(prefix, base)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    try:
        unlocked = folder / f"{MARK}.new"
        mark = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(mark, fcntl.LOCK_EX)
            unlocked.rename(folder / MARK)  # nobody ever sees it without its lock
            yield folder
        finally:
            os.close(mark)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(
    prefix: str, base: Path | None = None, before: Callable[[Path], None] = lambda folder: None
) -> list[str]:
    """Remove the caller's folders of this kind that no living process uses; returns them.

    `before` is called with each before that. A folder without the mark is left alone, whatever its name.
    """
    removed = []
    for folder in sorted((Path(tempfile.gettempdir()) if base is None else base).glob(f"{prefix}*")):
        with suppress(OSError):  # it is in use, another's, no such folder, or has just been removed
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            mark = os.open(folder / MARK, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                before(folder)
                shutil.rmtree(folder)
            finally:
                os.close(mark)
            removed.append(str(folder))
    return removed
