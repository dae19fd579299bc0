"""Writes the files of a run folder: readers never see half a document, and a full disk is an error of one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from testbed.errors import EnvironmentLacks

RESERVE = ".reserve"  # a file that is removed when the run ends, so that the summary fits on a full disk
FOLDER_GONE = "the run folder was removed or replaced while the run went on"
RESERVE_BYTES = 256 * 1024


class LogLost(EnvironmentLacks):
    """A run cannot write to its folder, because the disk is full or the folder is gone."""


def _plain(value: Any) -> Any:
    """The text of a value that msgspec cannot encode by itself, like a path or a block."""
    return str(value)


encode = msgspec.json.Encoder(enc_hook=_plain).encode


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON document in one step; raises LogLost."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(encode(dict(document)), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise lost(path, error) from error


def lost(path: Path, why: OSError | str) -> LogLost:
    """The error about a file of a run folder that cannot be written."""
    if isinstance(why, str):
        return LogLost(f"{path}: {why}")
    remedy = {
        errno.ENOSPC: ": make room there, or use another --out",
        errno.EDQUOT: ": make room there, or use another --out",
        errno.EFBIG: ": raise `ulimit -f`",
        errno.EMFILE: ": raise `ulimit -n`",
        errno.EROFS: ": use another --out",
        errno.EIO: ": use another --out",
        errno.ENOENT: ": the run folder was removed while the run went on",
    }
    return LogLost(f"{path} cannot be written ({why.strerror}){remedy.get(why.errno or 0, '')}")


def identity(folder: Path) -> tuple[int, int] | None:
    """The device and inode of a folder, which stay the same when it is renamed; None if it is gone."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def reserve(path: Path) -> None:
    """Reserve `RESERVE_BYTES` on the disk, if it has that much space."""
    with contextlib.suppress(OSError), path.open("xb") as file:  # if there is no space, writing the first row fails
        os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
