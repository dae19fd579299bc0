"""How long the threads of a worker have waited for a core of the host, as the kernel's scheduler counts it."""

from __future__ import annotations

import os
from pathlib import Path


class CoreWaits:
    """The waits of the thread that makes this object. Reading them takes two microseconds."""

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel that does not count them
            self._file = None

    def seconds(self) -> float:
        """Seconds that this thread has waited so far; 0 where the kernel does not count them."""
        return 0.0 if self._file is None else _waited_s(os.pread(self._file, 80, 0))


class ProcessWaits:
    """The waits of all threads of this process in sum, those that have ended meanwhile included as last seen."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def seconds(self) -> float:
        """Seconds that the threads have waited so far, in sum; 0 where the kernel does not count them."""
        for thread in os.listdir("/proc/self/task"):
            try:
                self._seen[thread] = _waited_s(Path(f"/proc/self/task/{thread}/schedstat").read_bytes())
            except OSError:  # it has just ended, or the kernel does not count
                continue
        return sum(self._seen.values())


def _waited_s(schedstat: bytes) -> float:
    """The second of the three numbers: nanoseconds on a run queue."""
    return int(schedstat.split()[1]) / 1e9
