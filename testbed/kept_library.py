"""Keeps libraries of machine code from one process to the next: finds one, or has it made, and loads it.

A library's name has a digest of all it is made from, so a changed source is compiled anew and an old library is never
taken for a new one. It lies in the `__pycache__` beside the sources, which git and copies of the tree ignore, or,
where that cannot be written, in the user's own cache folder.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

from testbed.errors import EnvironmentLacks
from testbed.files import own_cache
from testbed.temporary import temporary_folder

MADE_IN = "headroom-made"


def load(name: str, beside: Path, what: str, make: Callable[[Path], None]) -> ctypes.CDLL:
    """The library of this name, which `make` writes to a file if it is not there.

    `beside` is the folder of its sources, and `what` names them in the EnvironmentLacks for lack of a folder.
    """
    found = load_kept(name, beside)
    if found is not None:
        return found
    logging.getLogger("testbed").warning(f"The {what} is compiled for this machine, once; this may take a minute.")
    reasons = []
    for folder in _folders(beside):
        try:
            return ctypes.CDLL(str(_made(folder, beside, name, make)))
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    raise EnvironmentLacks(
        f"there is no folder for the compiled {what} ({'; '.join(reasons)}): make one of them writable, or set "
        "XDG_CACHE_HOME to a folder of yours"
    )


def load_kept(name: str, beside: Path) -> ctypes.CDLL | None:
    """The library of this name, or None if it is nowhere."""
    for folder in _folders(beside):
        if os.path.exists(folder / name) and _is_safe(folder, beside):
            try:
                return ctypes.CDLL(str(folder / name))
            except OSError:  # damaged, or on a file system from which nothing may run
                continue
    return None


def _folders(beside: Path) -> list[Path]:
    return [folder for folder in (beside / "__pycache__", own_cache()) if folder.is_absolute()]


def _is_safe(folder: Path, beside: Path) -> bool:
    """Whether nobody else can put a library there, which would then be run, that could not change the code as well."""
    if folder.parent == beside:
        return True
    found = folder.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _made(folder: Path, beside: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Make the library in a folder; raises OSError if the folder takes none.

    The library appears under its name when it is whole, so processes may do this at the same time.
    """
    folder.mkdir(mode=0o777 if folder.parent == beside else 0o700, parents=True, exist_ok=True)
    if not _is_safe(folder, beside):
        raise PermissionError(errno.EPERM, "it is another user's, or others can write to it")
    with temporary_folder(f"{MADE_IN}-", folder) as place:
        made = place / name
        make(made)
        os.chmod(made, 0o755)  # for other users of this tree, too
        os.replace(made, folder / name)
    return folder / name
