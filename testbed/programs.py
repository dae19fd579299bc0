"""Finds the system's programs, whatever PATH is.

On Debian, the PATH of a normal user lacks /usr/sbin, which holds `ifconfig`, `brctl` and Open vSwitch. A service may
have no PATH at all. So programs are searched in the folders of PATH first, and then in the system's folders.
"""

from __future__ import annotations

import os
import shutil

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def search_path(given: str | None) -> str:
    """The given PATH without its empty names, which mean the current folder, and then the system's folders."""
    folders = [folder for folder in (given or "").split(os.pathsep) if folder]
    return os.pathsep.join(dict.fromkeys([*folders, *SYSTEM_FOLDERS]))


def find_program(name: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(name, path=search_path(os.environ.get("PATH")))


def use_system_folders() -> None:
    """Let this process, its children and libraries such as Mininet find the system's programs."""
    os.environ["PATH"] = search_path(os.environ.get("PATH"))


def complaint(returncode: int, stderr: str | bytes) -> str:
    """The last line that a failed program wrote to standard error, or else how it ended."""
    text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr
    if text.strip():
        return text.strip().splitlines()[-1].strip()
    return f"it was killed by signal {-returncode}" if returncode < 0 else f"it ended with code {returncode}"
