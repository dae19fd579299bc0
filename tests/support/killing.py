"""Kills or stops any process of a run, and checks how the run ends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from running import (
    Ended,
    Going,
    Place,
    assert_they_end,
    control_groups,
    events,
    mentioning,
    topology,
    write_experiment,
)

from testbed.runlog.folder import read_json, read_lines

WITHIN_S = 60.0  # the longest time in which a run must end, whatever was stopped
STOPPED_S = 3.0  # then a stopped process continues that only its user can continue
GONE_S = 5.0
SHARED = ("--share-host", "--accept-unfaithful", "--calibrate", "off")
DEVICES = 4
WORKERS_SCORE = 1000
TOKENS = {"set-up": 300, "decode": 300, "migration": 300, "teardown": 6}

TO_AND_FRO = """
import time
from pathlib import Path

from testbed.placement.blocks import Placement
from testbed.placement.patterns import expand_patterns


class ToAndFro:
    name = "to-and-fro"

    def reset(self, seed):
        self.turn = 0

    def decide(self, observation, placement):
        if placement is None:
            return Placement(expand_patterns(observation, {"*": "a"}))
        while Path(__file__).with_name("shut").exists():
            time.sleep(0.02)
        self.turn += 1
        return placement.with_moves(expand_patterns(observation, {"*": "a", "head(0,*)": "ab"[self.turn % 2]}).items())
"""


def vulnerable(folder: Path, moment: str, backend: str) -> Path:
    """An experiment that migrates every 2 tokens; on Mininet it has a ballast and a replayer.

    It waits at its boundaries while the folder has a file `shut`.
    """
    (folder / "policy.py").write_text(TO_AND_FRO)
    slow = {name: {"link": {"rate": "4 Mbit/s", "delay": "3 ms"}} for name in "abcd"}
    squeeze = "time,target,quantity,value\n0,device/b,memory,64 MiB\n900,device/b,memory,48 MiB\n"
    rates = "".join(f"{n},link/c,rate,{3 + n % 2} Mbit/s\n" for n in range(900))
    (folder / "trace.csv").write_text(squeeze)
    (folder / "rates.csv").write_text("time,target,quantity,value\n" + rates)
    return write_experiment(
        folder, "doomed", tokens=TOKENS[moment], interval=2, policy=f"{folder / 'policy.py'}:ToAndFro",
        topology=topology(**slow), delay="transport", trace_clock="time", weights="shipped",
        traces=["trace.csv", "rates.csv"] if backend == "mininet" else [],
    )  # fmt: skip


def children(pid: int) -> list[int]:
    """The processes that have this one as parent."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(entry))
    return found


def target(going: Going, which: str, backend: str) -> int:
    """The pid on this host of one of the run's processes, as soon as that process exists."""
    if which == "outer":
        return going.process.pid
    init = going.record().init
    assert init is not None
    if which == "inner":
        return init.pid

    def forkserver() -> int | None:
        for pid in children(init.pid):
            if b"multiprocessing.forkserver" in _read(pid, "cmdline"):
                return pid
        return None

    if which == "forkserver":
        return int(going.wait(forkserver, "a forkserver"))

    def forked() -> int | None:
        server = forkserver()
        kinds = {pid: kind(pid) for pid in children(server)} if server is not None else {}
        if which == "worker" and backend == "local":
            return next(iter(kinds), None)
        if which != "worker" and list(kinds.values()).count("worker") < DEVICES:
            return None  # one that has only just begun is in its device's group, as a ballast is
        return next((pid for pid, each in kinds.items() if each == which), None)

    return int(going.wait(forked, f"a {which}"))


def kind(pid: int) -> str | None:
    """What a process of the forkserver has become; None: that cannot be seen yet."""
    if int(_read(pid, "oom_score_adj") or 0) == WORKERS_SCORE:
        return "worker"
    if b"/headroom/" in _read(pid, "cgroup"):
        return "ballast"
    with contextlib.suppress(ProcessLookupError):
        real_time = os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
        if real_time or os.getpriority(os.PRIO_PROCESS, pid) < 0:
            return "replayer"
    return None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def await_moment(going: Going, moment: str) -> None:
    """Wait until the run is decoding or migrating, or has its last token."""
    if moment == "decode":
        going.until_token(3)
    elif moment == "migration":
        folder = going.until_token(1)

        def moving() -> bool | None:
            begun, ended = (len(events(folder, f"migration_{what}")) for what in ("begin", "done"))
            return begun > ended or None

        going.wait(moving, "a migration")
    elif moment == "teardown":
        folder = going.folder()
        last, lines, table = TOKENS[moment], folder / "tokens.jsonl", folder / "tokens.parquet"
        going.wait(lambda: table.exists() or len(list(read_lines(lines))) >= last or None, "the last token")


def hit(
    place: Place, folder: Path, which: str, number: signal.Signals, moment: str, backend: str
) -> tuple[Ended, float]:
    """Send one signal to one process of a run at one moment; returns how the run ended and how long that took.

    Fails where it takes too long or leaves what `testbed clean` does not remove.
    """
    experiment = vulnerable(folder, moment, backend)
    with place.started(experiment, "--backend", backend, *SHARED) as going:
        pid = target(going, which, backend)
        await_moment(going, moment)
        members = going.members()
        begun = time.monotonic()
        with contextlib.suppress(*([ProcessLookupError] if moment == "teardown" else [])):
            os.kill(pid, number)
        if which == "outer" and number == signal.SIGSTOP:
            time.sleep(STOPPED_S)
            os.kill(pid, signal.SIGCONT)
            if moment != "teardown":
                time.sleep(1.0)
                os.kill(pid, signal.SIGINT)
        ended = _end(going, WITHIN_S)
        took = time.monotonic() - begun
        run_folder = going.folder()
    assert_they_end(members, GONE_S)
    cleaned = place.testbed("clean")
    assert cleaned.code == 0, cleaned.err
    assert mentioning(str(run_folder)) == [] and place.left_behind() == []
    assert control_groups(str(read_json(run_folder / "manifest.json").get("id", "-"))) == []
    return ended, took


def _end(going: Going, patience_s: float) -> Ended:
    out, err = going.process.communicate(timeout=patience_s)
    return Ended(going.process.returncode, out, err)


def codes(which: str, number: signal.Signals, moment: str) -> set[int]:
    """The exit codes that are right."""
    if which == "outer":
        after = {0 if moment == "teardown" else 130}
        return {signal.SIGKILL: {-9}, signal.SIGTERM: {130}, signal.SIGSTOP: after}[number]
    if which == "worker" and moment == "set-up":
        return {3}
    interrupted = {130} if which == "inner" and number == signal.SIGTERM else {5}
    late = {0, 5} if moment == "teardown" else set()  # it may have been done with that process already
    return interrupted | late


def assert_one_sentence(ended: Ended, which: str) -> None:
    """Check that a user reads one sentence about the run that failed, and that it names the process that was hit."""
    if ended.code not in (0, -9):
        lines = ended.err.strip().splitlines()
        assert len(lines) == 1 and (lines[0] == "Interrupted." or lines[0].startswith("Error: ")), ended.err
    if ended.code in (3, 5):
        assert {"inner": "the run"}.get(which, which) in ended.err, ended.err
    assert "Traceback" not in ended.err, ended.err
