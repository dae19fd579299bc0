"""Reading the files that a user names: whole, of bounded size, and only where they are files.

A path may name a device that never ends, a pipe that never begins, or a file larger than memory. Each is one
`ConfigError` here, so that every reader in the project answers in the same words. This module knows paths and bytes;
it does not know what any file means.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from testbed.errors import ConfigError

LARGEST_BYTES = 64 * 2**20
"""What a reader takes where it does not say otherwise: the longest public trace we know of has 30 MB."""

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
    """A regular file, open for reading its bytes; raises ConfigError naming it, also for what reading it raises."""
    try:
        # Not blocking: opening a pipe that nobody writes to would otherwise wait for ever.
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

    Line ends are as in the file.
    """
    try:
        return read_bytes(path, limit_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the file cannot be read: it is not UTF-8 text") from error


def kind_of(mode: int) -> str:
    """What something is that is no regular file, as a sentence calls it."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _short(path: str | Path) -> str:
    """A path as a message shows it: one of thousands of characters is cut."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-80:]}"
