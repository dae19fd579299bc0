"""Memory groups on the real kernel: limits, the ledger, OOM kills, quotas, and a ballast that squeezes."""

import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from testbed.emulation.ballast import Ballast, run_ballast
from testbed.emulation.cgroups import (
    HIERARCHY,
    CgroupMode,
    CgroupUnavailable,
    DeviceCgroup,
    anon_slack_bytes,
    detect,
    remove_group,
)

MIB = 2**20
FORKSERVER = multiprocessing.get_context("forkserver")
RUN = f"test-{os.getpid()}"
WORKER_SCORE = 500  # oom_score_adj of a worker


@pytest.fixture(scope="module")
def mode() -> CgroupMode:
    found = detect()
    assert found.enforced, found.reason
    return found


@pytest.fixture
def group(mode: CgroupMode) -> Iterator[DeviceCgroup]:
    made = DeviceCgroup.create(mode, RUN, "a", quota=mode.cpu_root is not None)
    yield made
    made.kill_and_remove()
    assert not any(path.exists() for path in made.paths())


def hold(group: DeviceCgroup, size: int, connection: Connection) -> None:
    """A device's worker as far as the kernel cares: private pages in the group, first to be killed."""
    group.add(0)
    Path("/proc/self/oom_score_adj").write_text(str(WORKER_SCORE))
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, mmap.PAGESIZE):
        pages[offset] = 1
    connection.send_bytes(b"held")
    connection.recv_bytes()
    pages.close()
    connection.send_bytes(b"freed")
    connection.recv_bytes()


@pytest.fixture
def victim(group: DeviceCgroup) -> Iterator[Callable[[int], tuple[multiprocessing.process.BaseProcess, Connection]]]:
    started = []

    def start(size: int) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        ours, theirs = FORKSERVER.Pipe()
        process = FORKSERVER.Process(target=hold, args=(group, size, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
        assert ours.recv_bytes() == b"held"
        return process, ours

    yield start
    for process, connection in started:
        connection.close()
        process.kill()
        process.join()


@pytest.fixture
def ballast(group: DeviceCgroup) -> Iterator[Ballast]:
    ours, theirs = FORKSERVER.Pipe()
    process = FORKSERVER.Process(target=run_ballast, args=(theirs, group))
    process.start()
    theirs.close()
    made = Ballast(process, ours)
    yield made
    made.stop()


def test_a_group_lies_in_the_projects_own_hierarchy_and_goes_without_trace(mode: CgroupMode) -> None:
    group = DeviceCgroup.create(mode, RUN + "-x", "b")
    assert mode.memory_root is not None
    assert group.memory_path == mode.memory_root / HIERARCHY / (RUN + "-x") / "b"
    neighbour = DeviceCgroup.create(mode, RUN + "-y", "b")
    group.kill_and_remove()
    assert not group.memory_path.parent.exists() and neighbour.memory_path.exists()
    neighbour.kill_and_remove()
    assert not neighbour.memory_path.parent.exists()


def test_a_limit_reads_back_and_moves_both_ways_without_swap(group: DeviceCgroup) -> None:
    assert group.limit() == -1
    for size in (64 * MIB, 256 * MIB, 32 * MIB):
        assert group.set_limit(size) == size == group.limit()
        swap = group.memory_path / "memory.memsw.limit_in_bytes"
        assert not swap.exists() or int(swap.read_text()) == size


def test_the_ledger_follows_what_a_process_holds_and_frees(group: DeviceCgroup, victim: Callable) -> None:
    before = group.anon()
    _, connection = victim(48 * MIB)
    held = group.anon() - before
    connection.send_bytes(b"free")
    connection.recv_bytes()
    freed = group.anon() - before
    assert held + anon_slack_bytes() >= 48 * MIB and held < 56 * MIB  # the interpreter's own pages are in it
    assert held - freed == pytest.approx(48 * MIB, abs=2 * anon_slack_bytes())
    assert group.usage() >= freed


def test_a_process_over_the_limit_is_killed_and_counted(group: DeviceCgroup) -> None:
    group.set_limit(32 * MIB)
    program = f"open({str(group.memory_path / 'cgroup.procs')!r}, 'w').write('0'); b'x' * 2**26"
    hog = subprocess.run([sys.executable, "-c", program], check=False)
    assert hog.returncode == -signal.SIGKILL
    assert group.oom_kills() == 1 and group.reached_limit()


def test_lowering_a_limit_below_the_use_is_refused_in_one_sentence_on_v1(group: DeviceCgroup, victim: Callable) -> None:
    if group.version == "v2":  # there the kernel would kill instead of refusing
        return
    victim(48 * MIB)
    with pytest.raises(CgroupUnavailable, match=r"memory.limit_in_bytes: Device or resource busy; lower the use"):
        group.set_limit(16 * MIB)


def test_removal_kills_what_is_inside(mode: CgroupMode) -> None:
    group = DeviceCgroup.create(mode, RUN, "doomed")
    sleeper = subprocess.Popen(["sleep", "60"])
    group.add(sleeper.pid)
    group.kill_and_remove()
    assert sleeper.wait(20) == -signal.SIGKILL
    assert remove_group(group.memory_path) == 0  # again: nothing to do


@pytest.mark.host_only(reason="User-Mode Linux counts CPU time roughly: of a quarter of a core it gave up to all")
def test_a_quota_slows_a_busy_loop_to_its_share(group: DeviceCgroup) -> None:
    assert group.cpu_path is not None, "this kernel has a cpu controller"
    group.set_quota(0.25, 0.02)
    spin = "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    process = subprocess.Popen([sys.executable, "-c", "input();" + f"exec({spin!r})"], stdin=-1, stdout=-1)
    group.add(process.pid)
    output, _ = process.communicate(b"\n", timeout=20)
    assert float(output) < 0.6 * 0.5


@pytest.mark.parametrize("size", [mmap.PAGESIZE, 3 * MIB + 5, 0, 40 * MIB, 8 * MIB])
def test_a_ballast_holds_whole_pages_of_what_it_was_told(group: DeviceCgroup, ballast: Ballast, size: int) -> None:
    empty = group.anon()
    for wanted in (20 * MIB, size):
        ballast.resize(wanted)
        assert ballast.held_bytes == -(-wanted // mmap.PAGESIZE) * mmap.PAGESIZE
        assert group.anon() - empty == pytest.approx(ballast.held_bytes, abs=2 * anon_slack_bytes())


def test_a_squeeze_kills_the_worker_and_spares_the_ballast(
    group: DeviceCgroup, ballast: Ballast, victim: Callable
) -> None:
    score = int(Path(f"/proc/{ballast.process.pid}/oom_score_adj").read_text())
    assert score == (-1000 if ballast.protected else 0)  # without CAP_SYS_RESOURCE the worker's score must do
    process, _ = victim(64 * MIB)
    group.set_limit(96 * MIB)
    ballast.resize(8 * MIB)
    assert process.is_alive() and group.oom_kills() == 0 and not group.reached_limit()
    ballast.resize(64 * MIB)
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    assert group.oom_kills() == 1
    assert ballast.process.is_alive() and ballast.held_bytes == 64 * MIB
    assert group.limit() == 96 * MIB
    ballast.resize(0)
    assert group.anon() < 16 * MIB


def test_a_ballast_ignores_ctrl_c_and_ends_with_its_parent() -> None:
    program = (
        "import multiprocessing, sys, time\n"
        "from testbed.emulation.ballast import Ballast, run_ballast\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    ours, theirs = context.Pipe()\n"
        "    process = context.Process(target=run_ballast, args=(theirs,))\n"
        "    process.start(); theirs.close()\n"
        "    ballast = Ballast(process, ours); ballast.resize(2**20)\n"
        "    print(process.pid, flush=True); time.sleep(60)\n"
    )
    script = Path("/tmp") / f"headroom-ballast-{os.getpid()}.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        os.kill(pid, 0)
        loaded = Path(f"/proc/{pid}/maps").read_text()
        assert "libtorch" not in loaded
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        status = Path(f"/proc/{pid}/stat")
        assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        script.unlink()
