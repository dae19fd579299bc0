"""Real-time priorities of a worker's threads: which of them the kernel runs first."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

# See sched(7). A thread with a message goes before one that ends an operation, and that before arithmetic. All go
# before this host's other processes, which no emulated device has (ADR 0016).
_MESSAGES, _ENDING, _COMPUTING = 3, 2, 1


def put_first(thread: int) -> None:
    """Let a thread that carries messages run as soon as it can, even before its own worker's arithmetic.

    These are the threads for commands, and the one that sends what the kernel could not take at once. Otherwise such a
    message waits for the end of the operation that its sender began meanwhile. On two cores that is up to a
    millisecond, which no emulated device has. Without the permission (not root) nothing happens.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_MESSAGES))


class Precedence:
    """The calling thread's priority over this host's other processes and, while taken, over other workers' arithmetic.

    On two cores a worker that wakes to send would otherwise wait until other workers' operations are done, though
    these have time to spare. A thread gives the precedence up while it waits for input and computes, because pacing
    can make up for lateness there. Without the permission (not root) nothing happens.
    """

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._priority = 0

    def take(self) -> None:
        """Run before other workers' arithmetic from now on, to end an operation on time and to send its result."""
        self._set(_ENDING)

    def give_up(self) -> None:
        """Go back to the priority of arithmetic: workers with it do not interrupt each other (SCHED_FIFO)."""
        self._set(_COMPUTING)

    def _set(self, priority: int) -> None:
        if priority != self._priority:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._thread, os.SCHED_FIFO, os.sched_param(priority))
                self._priority = priority


def transport_threads() -> list[int]:
    """ZeroMQ's own threads in this process; they move bytes between its sockets and the kernel's."""
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    return [one for one in threads if Path(f"/proc/self/task/{one}/comm").read_text().startswith("ZMQbg/IO")]
