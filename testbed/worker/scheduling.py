"""Which threads of a worker the kernel should run first."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

# Real-time priorities (sched(7)): messages go before a thread that ends an operation, and that before arithmetic. All
# go before this host's other processes, which no emulated device knows of (ADR 0016).
_MESSAGES, _ENDING, _COMPUTING = 3, 2, 1


def put_first(thread: int) -> None:
    """Let a thread that carries messages run as soon as it can, even where its own worker's arithmetic has the core.

    Otherwise a message waits for the end of the operation that its sender began after sending it: on two cores up to a
    millisecond, which no emulated device has. Nothing happens where that is not permitted (not root).
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_MESSAGES))


class Precedence:
    """The calling thread's right to run before this host's other processes, and, when taken, before others' arithmetic.

    On two cores a worker that wakes to send would otherwise wait until other workers' operations are done, though these
    have time to spare. While it waits for input and computes it is given up: a worker that is late then can catch up.
    Nothing happens where that is not permitted (not root).
    """

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._priority = 0

    def take(self) -> None:
        """From now on, run before others' arithmetic: an operation ends, and what it gave is sent."""
        self._set(_ENDING)

    def give_up(self) -> None:
        """From now on, take turns with other workers' arithmetic."""
        self._set(_COMPUTING)

    def _set(self, priority: int) -> None:
        if priority != self._priority:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._thread, os.SCHED_FIFO, os.sched_param(priority))
                self._priority = priority


def transport_threads() -> list[int]:
    """ZeroMQ's own threads in this process, which move bytes between its sockets and the kernel's."""
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    return [one for one in threads if Path(f"/proc/self/task/{one}/comm").read_text().startswith("ZMQbg/IO")]
