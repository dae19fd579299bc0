"""What `sudo testbed` makes is given to the user who called it, so that the next command without sudo can go on.

The interpreter's audit events (PEP 578) tell of every file and folder that this process makes, in whatever library; a
folder that it made is given back with all that is in it. Nothing is followed: each path is opened from the root on,
part by part, without links, and a file that has a second name, or that is not root's, is left.
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
"""Where nothing is given back: what is made there is the system's, or root's own."""

_RUNTIME_VARIABLE = "TESTBED_RUNTIME_DIR"
_made: dict[str, None] = {}  # in the order in which they were made
_hooked = False
_giving = 0  # the process that is in such a block; a child of it may be in one of its own


@contextlib.contextmanager
def giving_back() -> Iterator[None]:
    """For a block whose files and folders are to belong to the user who called sudo; nothing where there is none.

    Inside another such block of this process it does nothing: that one gives back all.
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
    """The user and group who called sudo, if root runs this for someone else."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    given = all(text.isascii() and text.isdigit() and len(text) < 10 for text in (uid, gid))
    return (int(uid), int(gid)) if given and os.geteuid() == 0 and int(uid) != 0 else None


def _hook() -> None:
    """Have every file and folder written down that is about to be made; a hook cannot be taken away again."""
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
    with contextlib.suppress(OSError):  # it is gone again, or has become something that is not to be followed
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
    """One file, or a folder with all that is in it; the folder last, so that until then only root can change it."""
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
