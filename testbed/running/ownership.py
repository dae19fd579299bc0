"""Files that `sudo testbed` makes are given to the user who called it, so that the next command works without sudo.

The interpreter's audit events (PEP 578) tell of every file and folder that this process makes, in whatever library. A
folder is given with everything in it. No link is followed: each path is opened part by part from the root on. Files
that have a second name, or that root does not own, are left alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testbed.signals import held_signals

SYSTEM = ("/boot", "/dev", "/etc", "/lib", "/opt", "/proc", "/root", "/run", "/sys", "/usr", "/var/lib", "/var/lock")
"""Folders in which nothing is given away: files there belong to the system or to root."""

_RUNTIME_VARIABLE = "TESTBED_RUNTIME_DIR"
_made: dict[str, None] = {}  # in the order in which they were made
_hooked = False
_giving = 0  # the pid of the process that is in a block; its children may enter blocks of their own


@contextlib.contextmanager
def given_to_sudo_user() -> Iterator[None]:
    """Give the files and folders that are made in this block to the user who called sudo, at its end.

    Does nothing without sudo, and nothing in a block inside another one of this process: the outer one gives all.
    """
    global _giving
    owner = _caller()
    if owner is None or _giving == os.getpid():
        yield
        return
    _hook()
    _made.clear()
    _giving = os.getpid()
    try:
        yield
    finally:
        with held_signals():
            _giving = 0
            for path in list(_made):
                _give(path, owner)
            _made.clear()


def _caller() -> tuple[int, int] | None:
    """Return the user and group ids of the caller, if root runs this for someone else; else None."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    given = all(text.isascii() and text.isdigit() and len(text) < 10 for text in (uid, gid))
    return (int(uid), int(gid)) if given and os.geteuid() == 0 and int(uid) != 0 else None


def _hook() -> None:
    """Note every file and folder that is about to be made. A hook cannot be removed, so it is added once."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_note)
        _hooked = True


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        name, _, flags = arguments
        if not isinstance(flags, int) or not flags & os.O_CREAT:
            return
    elif event == "os.mkdir":
        name, _, folder = arguments
        if folder not in (-1, None):
            return
    elif event == "os.rename":
        name = arguments[1]
    else:
        return
    with contextlib.suppress(OSError, TypeError, ValueError):
        path = os.path.abspath(os.fsdecode(name))
        if event == "os.rename" or not os.path.lexists(path):
            _made[os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))] = None


def _give(path: str, owner: tuple[int, int]) -> None:
    own = os.environ.get(_RUNTIME_VARIABLE)
    if any(Path(path).is_relative_to(place) for place in (*SYSTEM, *([own] if own else []))):
        return
    with contextlib.suppress(OSError):  # it is gone again, or a link has taken its place
        folder = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in Path(path).parts[1:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            _give_entry(os.path.basename(path), folder, owner)
        finally:
            os.close(folder)


def _give_entry(name: str, folder: int, owner: tuple[int, int]) -> None:
    """Give one file, or a folder after everything in it, so that only root can change the folder until then."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != 0:
            return
        if stat.S_ISDIR(status.st_mode):
            for entry in os.listdir(descriptor):
                with contextlib.suppress(OSError):
                    _give_entry(entry, descriptor, owner)
        elif not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return
        os.fchown(descriptor, *owner)
    finally:
        os.close(descriptor)
