"""What this host's cores are used for: by a run's own processes, by other processes, or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

from testbed.controller.fleet import HostUsage
from testbed.worker.core_waits import core_pressure_s

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def host_usage() -> HostUsage | None:
    """Core seconds so far of the cores that this process may use; None where /proc does not say.

    A run's own processes are this one and all its descendants, including those that have ended and been waited for.
    """
    try:
        allowed = os.sched_getaffinity(0)
        idle_s, interrupts_s = _cores(Path("/proc/stat").read_text(), allowed)
        own_s = _own(os.getpid(), _processes())
    except (OSError, ValueError, IndexError):
        return None
    return HostUsage(time.monotonic(), len(allowed), idle_s, interrupts_s, own_s, core_pressure_s(), _load())


def _cores(stat: str, allowed: set[int]) -> tuple[float, float]:
    """(idle, interrupts) in core seconds, from the text of /proc/stat (proc(5))."""
    idle = interrupts = found = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
            ticks = [int(field) for field in fields]
            idle += ticks[3] + ticks[4]  # idle, iowait
            interrupts += ticks[5] + ticks[6]  # irq, softirq
            found += 1
    if found != len(allowed):
        raise ValueError(f"/proc/stat tells of {found} of {len(allowed)} cores")
    return idle / _TICKS_PER_S, interrupts / _TICKS_PER_S


def _processes() -> dict[int, tuple[int, float]]:
    """Pid -> (parent, CPU seconds of the process and of its children that it has waited for)."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has ended
        found[int(name)] = (int(fields[1]), sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S)
    return found


def _own(root: int, processes: dict[int, tuple[int, float]]) -> float:
    """CPU seconds of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    total, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        total += processes[pid][1] if pid in processes else 0.0
        waiting += children.get(pid, [])
    return total


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
