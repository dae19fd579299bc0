"""What a host's cores are used for, from /proc: the run's own processes, idleness, the rest."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from testbed.emulation import host_usage as module
from testbed.emulation.host_usage import host_usage
from testbed.worker import core_waits

STAT = """cpu  30 0 30 300 30 3 3 0 0 0
cpu0 10 0 10 100 10 1 1 0 0 0
cpu1 20 0 20 200 20 2 2 0 0 0
intr 1 2 3
"""
SPIN = "import time\nwhile time.process_time() < 0.5: pass\nprint()"


def test_only_the_cores_that_the_run_may_use_are_counted() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert module._cores(STAT, {0, 1}) == pytest.approx((330 * tick, 6 * tick))
    assert module._cores(STAT, {1}) == pytest.approx((220 * tick, 4 * tick))
    with pytest.raises(ValueError, match="1 of 2 cores"):
        module._cores(STAT, {1, 2})


def test_own_are_the_descendants_and_nobody_else() -> None:
    processes = {1: (0, 100.0), 10: (1, 1.0), 11: (10, 2.0), 12: (11, 4.0), 20: (1, 50.0)}
    assert module._own(10, processes) == 7.0


def test_a_child_counts_while_it_runs_and_after_it_has_ended() -> None:
    before = host_usage()
    child = subprocess.Popen([sys.executable, "-c", f"{SPIN}\ninput()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    during = host_usage()
    child.communicate(b"\n", timeout=60)
    after = host_usage()
    assert before and during and after
    assert during.own_s - before.own_s > 0.4
    assert after.own_s >= during.own_s
    assert after.cores == len(os.sched_getaffinity(0)) and after.at_s > during.at_s > before.at_s


def test_a_stranger_does_not_count() -> None:
    before = host_usage()
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SPIN!r}])"
    # Its child outlives it, so it is not ours; our end of the pipe is open until that one has ended.
    subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=True)
    after = host_usage()
    assert before and after
    assert after.own_s - before.own_s < 0.4


def test_a_kernel_without_psi_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    real = core_waits.Path

    def no_pressure(path: str) -> object:
        return real("/nowhere") if "pressure" in path else real(path)

    monkeypatch.setattr(core_waits, "Path", no_pressure)
    found = host_usage()
    assert found is not None and found.pressure_s is None and found.idle_s > 0


def test_a_system_without_proc_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.Path
    monkeypatch.setattr(module, "Path", lambda path: real("/nowhere"))
    assert host_usage() is None
