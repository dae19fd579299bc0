"""A process by its pid and its start, so that it cannot be mistaken for a later one with the same pid; see proc(5)."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

STOPPED = "T"  # by a signal; a debugger's stop has another letter
ENDED = "ZX"


@dataclass(frozen=True)
class ProcessId:
    """A process by its pid and its start in clock ticks, so that a later one with the same pid differs."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process as it is now; raises ProcessLookupError."""
        status = process_status(pid)
        if status is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, status[1])

    def alive(self) -> bool:
        """Whether this very process still runs. A zombie does not."""
        status = process_status(self.pid)
        return status is not None and status[1] == self.start and status[0] not in ENDED

    def kill(self) -> bool:
        """SIGKILL the process if it is still the same one. The check and the signal use one pidfd."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):  # EINVAL: it is gone, and only its session has the number
                return False
            raise
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


def process_status(pid: int) -> tuple[str, int] | None:
    """(state letter, start in ticks since boot), fields 3 and 22 of /proc/<pid>/stat; None without such a process."""
    fields = _fields(pid)
    return (fields[0], int(fields[19])) if fields else None


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or nothing left of it but its exit code."""
    status = process_status(pid)
    return status is None or status[0] in ENDED


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped it."""
    status = process_status(pid)
    return status is not None and status[0] == STOPPED


def children_of(pid: int) -> list[int]:
    """The processes whose parent (field 4) this one is."""
    entries = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [entry for entry in entries if _fields(entry)[1:2] == [str(pid)]]


def cpu_ticks(pid: int) -> int:
    """The CPU time that a process has used (fields 14 and 15); 0 when there is no such process."""
    fields = _fields(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _fields(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
