"""Which threads of a worker the kernel should run first."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def put_first(thread: int) -> None:
    """Let a thread that carries messages run as soon as it can, even where its own worker's arithmetic has the core.

    Otherwise a message waits for the end of the operation that its sender began after sending it: on two cores up to a
    millisecond, which no emulated device has. Nothing happens where that is not permitted (not root).
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))


def transport_threads() -> list[int]:
    """ZeroMQ's own threads in this process, which move bytes between its sockets and the kernel's."""
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    return [one for one in threads if Path(f"/proc/self/task/{one}/comm").read_text().startswith("ZMQbg/IO")]
