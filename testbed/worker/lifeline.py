"""A process that lives no longer than the controller that asked for it, even when that is killed with -9."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from multiprocessing import forkserver, parent_process
from multiprocessing.connection import wait
from typing import Any

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """Let this child of a forkserver end when the process that asked for it does.

    PR_SET_PDEATHSIG only watches the forkserver; and the forkserver lives as long as anyone holds the write end of
    its "alive" pipe, which every child inherits, so that is closed here. A thread watches the controller itself. The
    kernel's signal stays for a process that is stopped (SIGSTOP) when its controller dies: its thread cannot run.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
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
