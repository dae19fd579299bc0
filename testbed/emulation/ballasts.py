"""The ballasts of a run: one in the control group of each device whose memory changes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from testbed.emulation.ballast import Ballast, run_ballast
from testbed.emulation.cgroups import DeviceCgroup
from testbed.emulation.spawn import start_process

BALLAST_PATIENCE_S = 2.0  # for all ballasts to end by themselves


class Ballasts:
    """Starts them all at once, and another where the kernel has killed one together with its device."""

    def __init__(self, context: ForkServerContext, groups: Mapping[str, DeviceCgroup]) -> None:
        self._context, self._groups = context, groups
        pipes = {device: self._start(device) for device in groups}
        self._ballasts = {device: Ballast(*pipe) for device, pipe in pipes.items()}
        self._wanted_bytes = dict.fromkeys(groups, 0)

    def _start(self, device: str) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._groups[device])
        process = self._context.Process(target=run_ballast, args=arguments, name=f"ballast-{device}")
        start_process(process)
        theirs.close()
        return process, ours

    def held_bytes(self, device: str) -> int:
        """What the device's ballast holds."""
        return self._ballasts[device].held_bytes if device in self._ballasts else 0

    def resize(self, device: str, size_bytes: int) -> None:
        """Have the device's ballast, if it has one, hold so much; raises RunFailed where it ends or cannot."""
        if device in self._ballasts:
            self._wanted_bytes[device] = size_bytes
            self._ballasts[device].resize(size_bytes)

    def renew(self, device: str) -> None:
        """Start another one for the device if its ballast has ended."""
        if device in self._ballasts and not self._ballasts[device].process.is_alive():
            self._ballasts[device] = Ballast(*self._start(device))
            self._ballasts[device].resize(self._wanted_bytes[device])

    def pids(self) -> dict[str, int | None]:
        """The ballasts' processes, by device."""
        return {device: ballast.process.pid for device, ballast in self._ballasts.items()}

    def stop(self) -> None:
        """End all of them. Their memory is free afterwards."""
        for ballast in self._ballasts.values():
            ballast.let_go()
        deadline = time.monotonic() + BALLAST_PATIENCE_S
        for ballast in self._ballasts.values():
            ballast.stop(max(0.0, deadline - time.monotonic()))
        self._ballasts = {}
