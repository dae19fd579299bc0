"""A worker that is started in the place of a lost one, and what a trace does to it before it is up."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testbed.controller.conditions import Conditions
from testbed.emulation.local_fleet import LocalFleet
from testbed.emulation.processes import is_stopped
from testbed.experiment.schema import Experiment
from tests.support.running import write_experiment


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeping:
        yield sleeping
        sleeping.kill()


class Starting(LocalFleet):
    """Its device b has a worker that has not said that it is up; commands go nowhere."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        super().__init__(Experiment.load(write_experiment(folder)), folder, 8)
        self._baselines = {}
        self._processes = {"b": SimpleNamespace(pid=process.pid, is_alive=lambda: True)}  # type: ignore[dict-item]

    def send(self, device: str, command: Any) -> None:
        """Nothing."""

    def pause(self, paused: bool) -> None:
        """Pause device b, or let it go on, as a trace does."""
        conditions = Conditions(self.experiment)
        conditions.begin()
        target = conditions.target()
        self.apply(replace(target, devices=dict(target.devices) | {"b": replace(target.devices["b"], paused=paused)}))

    def hello(self, process: subprocess.Popen[bytes]) -> None:
        """Its worker is up."""
        self._pids["b"], self._addresses["b"] = process.pid, "ipc://b"


def stopped(process: subprocess.Popen[bytes]) -> bool:
    return os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)[1]) or is_stopped(process.pid)


def test_a_pause_before_a_new_worker_is_up_holds_once_it_is(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    fleet = Starting(tmp_path, process)
    fleet.pause(True)
    assert not stopped(process)
    fleet.hello(process)
    assert fleet.introduce("b") == ["b"]
    os.waitpid(process.pid, os.WUNTRACED)
    fleet.pause(False)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(5.0) == -signal.SIGTERM, "it goes on, and so hears the signal"


def test_a_new_worker_that_ends_at_once_may_still_be_introduced(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    fleet = Starting(tmp_path, process)
    fleet.pause(False)
    assert fleet.introduce("b") == [], "it has ended, as an event reports"
