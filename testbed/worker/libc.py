"""Calls of the C library and the Linux kernel that Python's standard library does not offer.

Each acts on the calling process or thread. Nothing here knows devices or runs.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29  # prctl(2)
_CLONE_NEWNET = 0x40000000  # setns(2)
_TOP_PAD, _MMAP_THRESHOLD = -2, -3  # mallopt(3): M_TOP_PAD, M_MMAP_THRESHOLD
_libc = ctypes.CDLL(None, use_errno=True)


def signal_at_parents_death(number: signal.Signals) -> None:
    """Have the kernel send this signal when the thread that started this process ends; safe between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def use_precise_timers() -> None:
    """Ask the kernel for sleeps that end on time: a timer slack of 1 ns instead of 50 µs."""
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


def enter_network(pid: int) -> None:
    """Move the calling thread into the network namespace of a process; raises OSError."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(namespace)


def map_allocations_from(size_bytes: int, keep_room: bool) -> None:
    """Have malloc map and unmap allocations of at least this size; without `keep_room` the heap grows by no more."""
    if not keep_room:
        _libc.mallopt(_TOP_PAD, 0)
    _libc.mallopt(_MMAP_THRESHOLD, size_bytes)
