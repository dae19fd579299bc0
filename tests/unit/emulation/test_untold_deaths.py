"""A worker that the kernel has killed, and whose exit code nobody reports yet."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from testbed.controller.fleet import DeviceLost, FleetEvent
from testbed.emulation.local_fleet import LocalFleet
from testbed.errors import RunFailed
from testbed.experiment.schema import Experiment
from tests.support.running import write_experiment


class Untold(LocalFleet):
    """Its worker of device a has ended, but whoever should report that does not; the kernel may have killed it."""

    killed_by_kernel = True

    def __init__(self, folder: Path, ended: subprocess.Popen[bytes]) -> None:
        super().__init__(Experiment.load(write_experiment(folder)), folder, 8)
        hub, silent = self._pipe = Pipe()  # nothing is ever written to either end
        self._hub = SimpleNamespace(poll=lambda _: [], fileno=hub.fileno)  # type: ignore[assignment]
        worker = SimpleNamespace(pid=ended.pid, sentinel=silent, is_alive=lambda: True)
        self._processes, self._pids = {"a": worker}, {"a": ended.pid}  # type: ignore[dict-item]

    def _was_oom_killed(self, device: str) -> bool:
        return self.killed_by_kernel

    def look(self) -> list[tuple[str, FleetEvent]]:
        """What is found once the patience that an ended worker gets is over."""
        found: list[tuple[str, FleetEvent]] = []
        deadline = time.monotonic() + 20
        while not found and time.monotonic() < deadline:
            found = self.events(0.1)
        return found


@pytest.fixture
def zombie() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/true"]) as process:
        yield process


def test_a_worker_killed_by_the_kernel_counts_as_lost_before_its_exit_code_is_known(
    zombie: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    fleet = Untold(tmp_path, zombie)
    assert fleet.look() == [("a", DeviceLost(True, -signal.SIGKILL))]
    assert fleet.events(0.1) == []


def test_a_worker_that_ended_otherwise_and_untold_fails_the_run(
    zombie: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    fleet = Untold(tmp_path, zombie)
    fleet.killed_by_kernel = False
    with pytest.raises(RunFailed, match="device a: its worker has ended in the middle of the run"):
        fleet.look()
