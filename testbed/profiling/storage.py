"""How fast this machine's storage is read, past the kernel's page cache."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from testbed.errors import ConfigError
from testbed.profiling.numbers import Measured, over_rounds

FILE_BYTES = 128 * 2**20
CHUNK_BYTES = 4 * 2**20
ROUNDS = 3


def storage_Bps(folder: Path, size: int = FILE_BYTES) -> Measured | None:
    """Bytes per second of reading a new file in `folder`; None where files of that folder lie in memory.

    Raises ConfigError if no file can be written there.
    """
    if in_memory(folder):
        return None
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            part = os.urandom(CHUNK_BYTES)
            for _ in range(max(1, size // CHUNK_BYTES)):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            return over_rounds([_read_Bps(file.fileno()) for _ in range(ROUNDS)])
    except OSError as error:
        raise ConfigError(
            f"--storage is {folder}, where no file of {size / 1e6:.0f} MB can be written: {error.strerror}"
        ) from error


def in_memory(folder: Path) -> bool:
    """Whether the files of a folder lie in memory only."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    here = folder.resolve()
    kinds = {Path(where): kind for where, kind in mounts if here.is_relative_to(where)}
    return kinds[max(kinds, key=lambda path: len(path.parts))] in ("tmpfs", "ramfs") if kinds else False


def _read_Bps(descriptor: int) -> float:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    buffer, total = bytearray(CHUNK_BYTES), 0
    started = time.perf_counter()
    while read := os.preadv(descriptor, [buffer], total):
        total += read
    return total / (time.perf_counter() - started)
