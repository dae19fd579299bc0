"""The files of a run folder, written so that no reader sees half of one and a full disk is one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from testbed.errors import EnvironmentLacks

RESERVE = ".reserve"  # room on the disk that is given back when the run ends, so that a full disk takes its summary
RESERVE_BYTES = 256 * 1024


class LogLost(EnvironmentLacks):
    """What a run has to tell cannot be written to its folder: the disk is full, or the folder is gone."""


def _plain(value: Any) -> Any:
    """What msgspec cannot encode by itself: paths, blocks and the like go in by their name."""
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
    """The sentence on a file of a run folder that cannot be written."""
    if isinstance(why, str):
        return LogLost(f"{path}: {why}")
    remedy = {
        errno.ENOSPC: ": make room there, or use another --out",
        errno.EDQUOT: ": make room there, or use another --out",
        errno.EFBIG: ": raise `ulimit -f`",
        errno.EMFILE: ": raise `ulimit -n`",
        errno.ENOENT: ": the run folder was removed while the run went on",
    }
    return LogLost(f"{path} cannot be written ({why.strerror}){remedy.get(why.errno or 0, '')}")


def identity(folder: Path) -> tuple[int, int] | None:
    """What stands for a folder itself, whatever its name; None where it is gone."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def reserve(path: Path) -> None:
    """Take `RESERVE_BYTES` of the disk, as far as it has them."""
    with contextlib.suppress(OSError), path.open("xb") as file:  # where there is no room, the first row will tell
        os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
