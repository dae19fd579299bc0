"""A command that is asked to end, at any moment: one word or none, the code of an interrupt, nothing left behind."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import termios
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from testbed import cli

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "experiments" / "small-scale.yaml"
SWEEP = """
experiment: {experiment}
policies: [single, round-robin]
seeds: 400
"""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
VERBS = ("replay", "compare", "sweep")
MOMENTS_S = (0.0, 0.15, 0.5, 1.2, 2.5)  # after the interpreter's own start


@dataclass(frozen=True)
class Place:
    """A test's own runtime folder and temporary folder, as short as sockets need them."""

    base: Path

    def started(self, *arguments: str | Path, **options: object) -> subprocess.Popen[str]:
        environment = os.environ | {"TESTBED_RUNTIME_DIR": str(self.base / "rt"), "TMPDIR": str(self.base / "tmp")}
        return subprocess.Popen(
            [sys.executable, "-m", "testbed", *map(str, arguments)], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,  # type: ignore[call-overload]
        )  # fmt: skip

    def left(self) -> list[str]:
        """What is in its two folders."""
        found = [*(self.base / "rt").glob("*"), *(self.base / "tmp").glob("*")]
        return sorted(str(path.relative_to(self.base)) for path in found)


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="hr-") as base:
        (Path(base) / "tmp").mkdir()
        yield Place(Path(base))


def arguments(verb: str, place: Place) -> list[str]:
    """A command line of the verb that has work for half a minute."""
    out = ["--out", str(place.base / "out")]
    if verb == "replay":
        return ["replay", str(SMALL), "--backend", "sim", "--policy", "round-robin", "--set", "tokens=900", *out]
    if verb == "compare":
        policies = ["--policy", "single", "--policy", "round-robin"]
        return ["compare", str(SMALL), "--backend", "sim", *policies, "--seeds", "400", *out]
    file = place.base / "many.yaml"
    file.write_text(SWEEP.format(experiment=SMALL))
    return ["sweep", str(file), *out]


def await_start(process: subprocess.Popen[str]) -> None:
    """Wait until the interpreter carries out our code, by what proc(5) says of the signals that are caught."""
    status = Path(f"/proc/{process.pid}/status")
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        caught = int(status.read_text().partition("SigCgt:")[2].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


def assert_ended_well(process: subprocess.Popen[str], number: signal.Signals, place: Place) -> None:
    _, said = process.communicate(timeout=30)
    # SIGINT: what the interpreter ends with where a Ctrl-C has interrupted an `exec`, such as that of a named tuple.
    assert process.returncode in (130, -number, -signal.SIGINT), (process.returncode, said)
    lines = [line for line in said.splitlines() if line and not line.endswith("the same command goes on from there.")]
    assert lines in ([], ["Interrupted."]), said
    assert in_session(process.pid) == []
    assert place.left() == []


def in_session(session: int, patience_s: float = 5.0) -> list[str]:
    """The command lines of what is left of a session after so long."""
    end = time.monotonic() + patience_s
    while True:
        found = []
        for one in psutil.process_iter():
            try:
                if os.getsid(one.pid) == session and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(one.cmdline()))
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("moment_s", MOMENTS_S)
@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_at_any_moment_ends_a_verb_in_a_word(verb: str, moment_s: float, place: Place) -> None:
    """Each signal comes once in every moment, and in the three verbs in turn."""
    number = ENDING[(VERBS.index(verb) + MOMENTS_S.index(moment_s)) % len(ENDING)]
    process = place.started(*arguments(verb, place))
    await_start(process)
    time.sleep(moment_s)
    if process.poll() is None:
        process.send_signal(number)
        assert_ended_well(process, number, place)
    else:
        assert process.communicate()[1] == "" and process.returncode == 0


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_while_results_are_printed_to_a_reader_who_waits_ends_the_verb(
    number: signal.Signals, place: Place
) -> None:
    trace = place.base / "long.csv"
    rows = "".join(f"{n},link/b,rate,{1 + n % 9} Mbit/s\n" for n in range(2000))
    trace.write_text(f"time,target,quantity,value\n{rows}")
    process = place.started("traces", "show", trace, "--json")
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
    deadline = time.monotonic() + 30
    while array("i", fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)))[0] < mmap.PAGESIZE // 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    process.wait(timeout=10)  # though nobody reads
    assert_ended_well(process, number, place)


def test_what_nohup_starts_outlives_a_hangup(place: Place) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    out = place.base / "out"
    process = place.started("replay", SMALL, "--backend", "sim", "--json", "--out", out, preexec_fn=ignore)
    for _ in range(20):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize("verb", ["compare", "sweep"])
def test_what_a_killed_verb_leaves_is_removed_by_the_next(verb: str, place: Place) -> None:
    process = place.started(*arguments(verb, place))
    out = place.base / "out"
    deadline = time.monotonic() + 60
    while not list(out.rglob("summary.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=30)
    assert in_session(process.pid) == []
    assert [name for name in place.left() if name.startswith("tmp/")] == [] and place.left() != []
    following = place.started("clean")
    assert following.wait(timeout=30) == 0 and following.communicate()[1] == ""
    assert place.left() == []


def test_an_interrupt_that_the_interpreter_hides_ends_the_verb_in_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.cli, "main", lambda **_: type("Imported", (), {"field": Interrupted()}))
    assert cli.run(["policies"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
