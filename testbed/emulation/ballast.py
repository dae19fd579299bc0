"""A co-located application: a process in a device's control group that holds as much memory as a trace says.

It squeezes the device as a real neighbour would, by using memory, while the limit stays. It knows nothing of models
and traces, and must never import torch: its own memory counts against the device.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import signal
import struct
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from testbed.emulation.cgroups import DeviceCgroup
from testbed.emulation.stall_detector import StallDetector
from testbed.errors import RunFailed
from testbed.worker.parent_death import end_with_parent

PROTECTED_SCORE = -1000  # oom_score_adj(5): never chosen by the OOM killer
RESIZE_TIMEOUT_S = 30.0
_SIZE = struct.Struct("=q")
_HELLO = struct.Struct("=q?")  # bytes held, protected
_TOUCH_BYTES = 1 << 20  # touched at once; in between the process answers signals
_PAGE = mmap.PAGESIZE
_MADV_NOHUGEPAGE = 15


def run_ballast(connection: Connection, cgroup: DeviceCgroup | None = None) -> None:
    """The process: join the group, ask for protection, then follow the sizes from `connection` until it closes.

    For `multiprocessing` (forkserver or spawn). Messages are fixed structs without pickle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the controller, which then ends this process
    end_with_parent()
    if cgroup is not None:
        cgroup.add(0)
    held = _HeldMemory()
    connection.send_bytes(_HELLO.pack(0, _protect()))
    with contextlib.suppress(EOFError, OSError):
        while True:
            (size,) = _SIZE.unpack(connection.recv_bytes(_SIZE.size))
            held.resize(size)
            connection.send_bytes(_SIZE.pack(held.size))


class Ballast:
    """The controller's end of a ballast process. Raises RunFailed when that process is gone or stuck."""

    def __init__(self, process: BaseProcess, connection: Connection, *, timeout: float = RESIZE_TIMEOUT_S) -> None:
        """Wait until the process is in its group. `protected` says whether the OOM killer must spare it."""
        self.process = process
        self._connection = connection
        self.held_bytes: int
        self.protected: bool
        self.held_bytes, self.protected = _HELLO.unpack(self._answer(_HELLO.size, "start", timeout))

    def resize(self, size_bytes: int, *, timeout: float = RESIZE_TIMEOUT_S) -> None:
        """Hold exactly `size_bytes`, rounded up to whole pages; returns when they are touched or freed."""
        try:
            self._connection.send_bytes(_SIZE.pack(max(0, size_bytes)))
        except OSError as error:
            raise self._gone(f"hold {size_bytes} bytes") from error
        (self.held_bytes,) = _SIZE.unpack(self._answer(_SIZE.size, f"hold {size_bytes} bytes", timeout))

    def let_go(self) -> None:
        """Have the process end by itself, soon. Its memory is free when it has ended."""
        self._connection.close()

    def stop(self, timeout: float = 2.0) -> None:
        """End the process. Its memory is free afterwards."""
        from testbed.emulation.spawn import end_processes  # imported here, because the process's own pages count

        self.let_go()
        end_processes([self.process], timeout)

    def _answer(self, size: int, request: str, timeout: float) -> bytes:
        deadline, stalls = time.monotonic() + timeout, StallDetector()
        assert self.process.pid is not None
        while not self._connection.poll(max(0.0, min(0.5, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise RunFailed(
                    f"the ballast (pid {self.process.pid}) could not {request} within {timeout:g} s: its control group "
                    "is full and nothing in it can be killed"
                )
            stalls.check({f"the ballast (pid {self.process.pid})": self.process.pid})
        try:
            return self._connection.recv_bytes(size)
        except (EOFError, OSError) as error:
            raise self._gone(request) from error

    def _gone(self, request: str) -> RunFailed:
        from testbed.emulation.spawn import exit_code

        code = exit_code(self.process)
        return RunFailed(
            f"the ballast (pid {self.process.pid}) ended with code {code} instead of being able to {request}"
        )


class _HeldMemory:
    """Private anonymous pages, all touched: one map that mremap(2) grows and shrinks at its end."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self.size = 0

    def resize(self, size_bytes: int) -> None:
        size = -(-size_bytes // _PAGE) * _PAGE
        if size == self.size:
            return
        if size == 0:
            assert self._map is not None
            self._map.close()
            self._map = None
        elif self._map is None:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):  # EINVAL: the kernel has no huge pages anyway
                self._map.madvise(_MADV_NOHUGEPAGE)
        else:
            self._map.resize(size)
        before, self.size = self.size, size
        if self._map is not None and size > before:
            address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
            for start in range(before, size, _TOUCH_BYTES):  # memset releases the interpreter while it waits
                ctypes.memset(address + start, 1, min(_TOUCH_BYTES, size - start))


def _protect() -> bool:
    """Ask never to be chosen by the OOM killer. That needs CAP_SYS_RESOURCE, which some containers keep from root.

    Without it the worker's higher score still makes it the first choice: +500 counts as half of the group's limit.
    """
    try:
        Path("/proc/self/oom_score_adj").write_text(str(PROTECTED_SCORE))
    except OSError:
        return False
    return True
