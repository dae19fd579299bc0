"""What a device's process shares with the forkserver stays shared, and what it owes to it is told."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from testbed.emulation import spawn
from testbed.emulation.spawn import exit_code, forkserver, forkserver_pid, start_process
from testbed.errors import RunFailed
from testbed.worker.parent_death import end_with_parent

MIB = 2**20


def private_bytes() -> int:
    """Memory of this process that is its own, smaps_rollup in proc(5)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def collect_garbage(answer: Connection) -> None:
    before = private_bytes()
    gc.collect()
    answer.send((before, private_bytes() - before))


def measured() -> tuple[int, int]:
    """(private bytes before a collection, bytes it added) in a child of the forkserver."""
    ours, theirs = forkserver().Pipe()
    process = forkserver().Process(target=collect_garbage, args=(theirs,))
    start_process(process)
    assert ours.poll(60)
    found: tuple[int, int] = ours.recv()
    process.join()
    return found


def started_after_its_end() -> None:
    """Start a process when the forkserver has been killed."""
    process = forkserver().Process(target=os.getpid)
    kill_forkserver()
    start_process(process)


def replaced_while_it_starts_another() -> None:
    """Start a process when the forkserver is killed at the last moment, after it has been looked at."""
    process = forkserver().Process(target=os.getpid)
    spawn._refuse_dead_forkserver = kill_forkserver
    start_process(process)


def kill_forkserver() -> None:
    pid = forkserver_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def ended_with_it() -> None:
    """See a child end because the forkserver has been killed."""
    ours, theirs = forkserver().Pipe()
    process = forkserver().Process(target=wait_for_the_end, args=(theirs,))
    start_process(process)
    assert ours.recv()
    os.kill(forkserver_pid() or 0, signal.SIGKILL)
    exit_code(process)


def wait_for_the_end(answer: Connection) -> None:
    end_with_parent()
    answer.send(True)
    signal.pause()


def refused(name: str) -> None:
    with pytest.raises(RunFailed, match="^the forkserver, which starts workers, has ended in the middle of the run$"):
        globals()[name]()


@pytest.mark.parametrize("name", ["started_after_its_end", "replaced_while_it_starts_another", "ended_with_it"])
def test_where_the_forkserver_has_been_killed_it_is_named_and_not_its_children(name: str) -> None:
    assert apart(f"refused({name!r})") == ""


def apart(call: str) -> str:
    """What a call here prints in a process of its own: each has one forkserver, which another test may have started."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", f"from test_spawn import *\n{call}"], env=environment, capture_output=True,
        text=True, timeout=90,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_garbage_collection_copies_nothing_that_the_forkserver_has_loaded() -> None:
    before, grown = map(int, apart("print(*measured())").split())
    assert grown < MIB, f"a collection made {grown / MIB:.1f} MiB of shared memory private, beside {before / MIB:.1f}"
