"""Ends a process when the controller that started it has ended, even by `kill -9`."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import wait
from typing import Any

from testbed.worker.libc import signal_at_parents_death


def end_with_parent() -> None:
    """Let this child of a forkserver end when the process that asked for it does.

    PR_SET_PDEATHSIG watches only the forkserver. The forkserver lives as long as anyone holds the write end of its
    "alive" pipe, which every child inherits; so this child closes it. A thread watches the controller itself. The
    kernel's signal is for a process that is stopped (SIGSTOP) when its controller dies: its thread cannot run.
    """
    signal_at_parents_death(signal.SIGKILL)
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_alive_fd is not None:
        with contextlib.suppress(OSError):
            os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
