"""What the doctor makes of what it measured, and how it prints it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from testbed.cli.doctor import WIDTH, command
from testbed.controller.calibration import NOMINAL_SPEED
from testbed.decoder import compiled
from testbed.doctor import bench_compute, host_checks
from testbed.doctor.finding import Finding, failure, tried
from testbed.doctor.network_checks import judge_link
from testbed.errors import EnvironmentLacks


def test_a_link_that_lets_too_much_through_is_not_shaped() -> None:
    found = judge_link(1.4)
    assert found.required and not found.ok and "does not limit" in found.detail and "sch_tbf" in found.remedy


def test_a_link_that_lets_too_little_through_is_slow_and_not_missing() -> None:
    found = judge_link(0.3)
    assert found.ok and found.slow and "it is shaped" in found.detail and "dilation: 2" in found.remedy


def test_a_link_at_its_rate_is_neither() -> None:
    found = judge_link(0.99)
    assert found.ok and not found.slow and not found.remedy


@pytest.mark.parametrize(
    "error, told",
    [
        (EnvironmentLacks("Mininet says\n no"), "Mininet says no"),
        (TimeoutError(), "TimeoutError"),
        (TimeoutError("timed out"), "timed out"),
        (SystemError(1), "SystemError: 1"),
    ],
)
def test_a_trial_that_fails_says_what_failed_and_ends_no_other(error: Exception, told: str) -> None:
    def fails() -> Finding:
        raise error

    assert tried("a trial", True, "the way out", fails) == Finding("a trial", False, True, told, "the way out")
    assert failure(error) == told


@pytest.mark.parametrize(
    "program, told",
    [
        ("import sys; sys.exit('nobody home')", "nobody home"),
        ("import sys; sys.exit(7)", "ended with code 7"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import time; time.sleep(60)", "did not end within 0.5 s"),
    ],
)
def test_trials_that_fail_as_a_whole_are_told_with_their_message(
    program: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **options: object) -> object:
        return plain([sys.executable, "-c", program], **options)  # type: ignore[call-overload]

    plain = subprocess.run
    monkeypatch.setattr(host_checks.subprocess, "run", run)
    monkeypatch.setitem(host_checks.TRIALS_PATIENCE_S, "quick", 0.5 if "sleep" in program else 20.0)
    (found,) = host_checks.examine_network()
    assert found.required and not found.ok and told in found.detail and found.remedy


def test_every_line_fits_a_terminal_and_says_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        judge_link(0.3),
        judge_link(1.4),
        Finding("netem", False, False, "an extra delay of 5 ms: " + "the kernel has none " * 9, "load it " * 20),
        host_checks.judge_speed(NOMINAL_SPEED, 0.6),
    ]
    monkeypatch.setattr(host_checks, "examine", lambda: findings)
    shown = CliRunner().invoke(command, [])
    lines = shown.output.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert [line.split()[0] for line in lines if line[0] != " "] == ["slow", "MISSING", "without", "slow"]
    assert sum("remedy:" in line for line in lines) == 4
    assert isinstance(shown.exception, EnvironmentLacks)


def test_a_link_that_is_only_slow_ends_with_exit_code_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_checks, "examine", lambda: [judge_link(0.3)])
    assert CliRunner().invoke(command, []).exit_code == 0


def test_kernels_that_cannot_be_compiled_are_missing_and_the_remedy_names_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load() -> None:
        raise EnvironmentLacks("there is no C compiler")

    for name in ("_mininet", "examine_network"):
        monkeypatch.setattr(host_checks, name, list)
    for name in ("_memory", "_speed"):
        monkeypatch.setattr(host_checks, name, lambda: Finding("another", True, False, "fine"))
    here, *_ = host_checks.examine()
    assert here.ok and "compiled" in here.detail
    monkeypatch.setattr(compiled, "load", load)
    found, *others = host_checks.examine()
    assert found.required and not found.ok and "no C compiler" in found.detail and "gcc" in found.remedy
    assert all(one.ok for one in others)


@pytest.mark.parametrize(("busy", "pauses"), [(0, []), (2, [0.5, 1.0]), (9, [0.5, 1.0, 2.0, 4.0])])
def test_blocks_that_others_made_late_are_measured_again_after_pauses_that_grow(
    busy: int, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [bench_compute.ComputeMeasured(1e-3, 100, 0.0, error) for error in (0.3, 0.2, 0.4, 0.5, 0.6)]
    attempts = iter([*late[:busy], bench_compute.ComputeMeasured(1e-3, 100, 0.0, 0.01)])
    slept: list[float] = []
    monkeypatch.setattr(bench_compute, "_measure_compute", lambda due_s, count: next(attempts))
    monkeypatch.setattr(bench_compute.time, "sleep", slept.append)
    assert bench_compute.measure_compute(1e-3).p95_error == (0.01 if busy < 5 else 0.2)
    assert slept == pauses
