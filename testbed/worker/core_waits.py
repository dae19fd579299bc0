"""How long the threads of a worker have waited for a core of the host, as the kernel's scheduler counts it."""

from __future__ import annotations

import math
import os
from pathlib import Path

SLACK = 1.25


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
    """The waits of all threads of this process in sum since this object was made, threads that have ended included.

    A thread's count can jump by the time that it slept (seen on Linux 6.18: by 3.1 s while the host idled for 92 % of
    4.9 s). So between two looks a thread is taken to have waited at most as long as the kernel's pressure allows: it
    counts the time in which some thread waited, as a mean over the cores that worked. So a thread's wait is at most
    their number times that, and `SLACK` more because the two are not read at once.
    """

    def __init__(self, cores: int | None = None) -> None:
        self._cores = cores or os.cpu_count() or 1
        self._seen: dict[str, float] = {}
        self._pressure_s = core_pressure_s()
        self._sum_s = 0.0
        self.seconds()
        self._sum_s = 0.0

    def seconds(self) -> float:
        """Seconds that the threads have waited, in sum; 0 where the kernel does not count them."""
        pressure_s, most_s = core_pressure_s(), math.inf
        if pressure_s is not None and self._pressure_s is not None:
            most_s = SLACK * self._cores * (pressure_s - self._pressure_s)
        self._pressure_s = pressure_s
        for thread in os.listdir("/proc/self/task"):
            try:
                waited_s = _waited_s(Path(f"/proc/self/task/{thread}/schedstat").read_bytes())
            except OSError:  # it has just ended, or the kernel does not count
                continue
            self._sum_s += min(most_s, max(0.0, waited_s - self._seen.get(thread, 0.0)))
            self._seen[thread] = waited_s
        return self._sum_s


def core_pressure_s() -> float | None:
    """Seconds in which some process of the host was ready and had no core; None for a kernel without PSI."""
    try:
        return int(Path("/proc/pressure/cpu").read_text().splitlines()[0].rpartition("=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _waited_s(schedstat: bytes) -> float:
    """The second of the three numbers: nanoseconds on a run queue."""
    return int(schedstat.split()[1]) / 1e9
