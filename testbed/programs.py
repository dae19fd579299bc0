"""The system's programs, found whatever PATH says.

A user who is not root has no /usr/sbin on his PATH, where Debian keeps `ifconfig`, `brctl` and Open vSwitch; a service
may have no PATH at all. What PATH names comes first, then the system's own folders. This module knows names of
programs and folders, not what they are for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def search_path(given: str | None) -> str:
    """PATH as given, then the system's folders. Without its empty names, which mean the current folder."""
    folders = [folder for folder in (given or "").split(os.pathsep) if folder]
    return os.pathsep.join(dict.fromkeys([*folders, *SYSTEM_FOLDERS]))


def find_program(name: str) -> str | None:
    """Where a program is, or None."""
    return shutil.which(name, path=search_path(os.environ.get("PATH")))


def use_system_folders() -> None:
    """Let this process, all that it starts, and libraries such as Mininet find the system's programs."""
    os.environ["PATH"] = search_path(os.environ.get("PATH"))


def complaint(returncode: int, stderr: str | bytes, lines: int = 1) -> str:
    """What a program that failed said last on standard error, or else how it ended."""
    text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr
    said: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    if said:
        return " ".join(said[-lines:])
    return f"it was killed by signal {-returncode}" if returncode < 0 else f"it ended with code {returncode}"
