"""Which threads of a worker the kernel should run first."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

_MESSAGES, _WAITING = 2, 1  # real-time priorities: a thread that carries a message does not wait for one that waits


def put_first(thread: int) -> None:
    """Let a thread that carries messages run as soon as it can, even where its own worker's arithmetic has the core.

    Otherwise a message waits for the end of the operation that its sender began after sending it: on two cores up to a
    millisecond, which no emulated device has. Nothing happens where that is not permitted (not root).
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(_MESSAGES))


class Precedence:
    """The calling thread's right to run before others' arithmetic: taken to end an operation on time and to send.

    On two cores a worker that wakes to send would otherwise wait until others' operations are done, though these have
    time to spare. To wait for input it is given up: being late then is made up for. Nothing happens where that is not
    permitted (not root).
    """

    def __init__(self) -> None:
        self._thread = threading.get_native_id()
        self._policy = os.SCHED_OTHER

    def take(self) -> None:
        """Run first from now on."""
        self._set(os.SCHED_FIFO, _WAITING)

    def give_up(self) -> None:
        """Take turns like everyone."""
        self._set(os.SCHED_OTHER, 0)

    def _set(self, policy: int, priority: int) -> None:
        if policy != self._policy:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(self._thread, policy, os.sched_param(priority))
                self._policy = policy


def transport_threads() -> list[int]:
    """ZeroMQ's own threads in this process, which move bytes between its sockets and the kernel's."""
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    return [one for one in threads if Path(f"/proc/self/task/{one}/comm").read_text().startswith("ZMQbg/IO")]
