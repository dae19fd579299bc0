"""Reads and writes the files that a user names, if they are regular files, and reads only those of bounded size.

A path may name a device that never ends, a pipe that nobody writes to, or a file larger than memory. Each of these is a
`ConfigError`, in the same words for every reader. This module knows paths and bytes, but not what a file means.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from testbed.errors import ConfigError, EnvironmentLacks, TestbedError

LARGEST_BYTES = 64 * 2**20
"""The largest file that is read by default; the longest public trace that we know of has 30 MB."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


@contextmanager
def open_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading bytes; raises ConfigError naming it, also when reading it fails."""
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ConfigError(f"{_short(path)}: the file cannot be read: {error.strerror}") from error
    except ValueError as error:  # a zero byte in the name
        raise ConfigError(f"{str(path)!r} cannot be the name of a file: {error}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path}: the file cannot be read: it is {kind_of(mode)}, not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def read_bytes(path: str | Path, limit_bytes: int = LARGEST_BYTES) -> bytes:
    """The content of a regular file of at most `limit_bytes` bytes; raises ConfigError naming it."""
    with open_file(path) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ConfigError(f"{path}: the file is too large to be what is expected here: over {limit_bytes} bytes")
    return content


def read_text(path: str | Path, limit_bytes: int = LARGEST_BYTES) -> str:
    """The text of a UTF-8 file without its byte-order mark; raises ConfigError as `read_bytes` does.

    Line ends stay as they are in the file.
    """
    try:
        return read_bytes(path, limit_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the file cannot be read: it is not UTF-8 text") from error


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file, in a folder that is made if need be. Half of a new file does not stay.

    Raises ConfigError naming the file, and EnvironmentLacks where the disk takes no more.
    """
    refuse_special(path)
    is_new = False
    try:
        make_folder(Path(path).parent)
        is_new = not os.path.lexists(path)
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        if is_new:
            with suppress(OSError, ValueError):
                os.unlink(path)
        raise unwritable(path, error) from error


def unwritable(path: str | Path, error: OSError | ValueError) -> TestbedError:
    """The error about a file that could not be written: EnvironmentLacks where the disk takes no more."""
    why = getattr(error, "strerror", None) or error
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    kind = EnvironmentLacks if full else ConfigError
    return kind(f"{_short(path)}: the file cannot be written: {why}")


def refuse_special(path: str | Path) -> None:
    """Raise ConfigError where something lies there that is no file and so must be neither written nor replaced."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing does, or whoever writes will be told
        return
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{_short(path)}: the file cannot be written: it is {kind_of(mode)}, not a file")


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, where they are not there yet; raises ConfigError where it is something else."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        mode = os.lstat(path).st_mode
        kind = "a file" if stat.S_ISREG(mode) else kind_of(mode)
        raise ConfigError(f"{_short(path)}: no folder can be made there: it is {kind}") from error


def own_cache() -> Path:
    """This package's folder in the user's cache, by the XDG base directory specification."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return Path(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache")) / "headroom"


def kind_of(mode: int) -> str:
    """The kind of something that is no regular file, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _short(path: str | Path) -> str:
    """A path as an error shows it: a very long one is cut."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-80:]}"
