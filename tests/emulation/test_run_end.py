"""However a run ends, its processes end with it, and what it made outside its capsule is taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from running import (
    BY_HAND,
    UNJUDGED,
    Going,
    Place,
    assert_they_end,
    control_groups,
    interfaces,
    mentioning,
    topology,
    two_placements,
    write_experiment,
)
from unprivileged import without_rights

from testbed.emulation.cgroups import detect
from testbed.emulation.processes import ProcessId, is_stopped
from testbed.runlog.folder import read_json

BACKENDS = pytest.mark.parametrize("backend", ["mininet", "local"])
WITHIN_S = 2.0


@pytest.fixture
def long_run(tmp_path: Path) -> Path:
    """An experiment that would go on for a minute or more: every hop takes 20 ms. Its trace gives b a ballast."""
    slow = {name: {"link": {"rate": "100 Mbit/s", "delay": "10 ms"}} for name in "abcd"}
    squeeze = "time,target,quantity,value\n0,device/b,memory,64 MiB\n300,device/b,memory,48 MiB\n"
    (tmp_path / "squeeze.csv").write_text(squeeze)
    return write_experiment(
        tmp_path, "long", tokens=400, interval=2, policy="round-robin", topology=topology(**slow), delay="transport",
        traces=["squeeze.csv"],
    )  # fmt: skip


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The file without which `waiting_run` does not go on."""
    return tmp_path / "gate"


@pytest.fixture
def waiting_run(tmp_path: Path, gate: Path) -> Path:
    """An experiment that waits at its first boundary."""
    policy = two_placements(tmp_path, {"*": "a", "head(*,*)": "b", "ffn(*)": "c"}, {"ffn(1)": "d"}, gate)
    return write_experiment(tmp_path, "waiting", tokens=8, interval=2, policy=policy, decision_limit="5 min")


@contextmanager
def things_made_by_hand() -> Iterator[None]:
    """A veth pair, a bridge and a control group on this host, which must be untouched at the end of the block."""
    tag = f"{os.getpid() % 100000}"
    ends, bridge = (f"{BY_HAND}{tag}a", f"{BY_HAND}{tag}b"), f"{BY_HAND}br{tag}"
    root = detect().memory_root
    assert root is not None
    groups = [root / f"hand-made-{tag}", root / "headroom" / f"hand-made-{tag}" / "a"]
    with ExitStack() as undo:
        for name, arguments in (
            (ends[0], ["type", "veth", "peer", "name", ends[1]]),
            (bridge, ["type", "bridge"]),
        ):
            subprocess.run(["ip", "link", "add", name, *arguments], check=True)
            undo.callback(subprocess.run, ["ip", "link", "delete", name], check=True)
        undo.callback(_remove_where_empty, root / "headroom")
        for group in groups:
            group.mkdir(parents=True)
        for folder in (groups[1].parent, groups[1], groups[0]):
            undo.callback(folder.rmdir)
        sleeper = subprocess.Popen(["sleep", "600"])
        undo.callback(sleeper.wait)
        undo.callback(sleeper.kill)
        (groups[1] / "cgroup.procs").write_text(str(sleeper.pid))
        yield
        assert sleeper.poll() is None
        assert {*ends, bridge} <= set(os.listdir("/sys/class/net"))
        assert all(group.is_dir() for group in groups)
        assert (groups[1] / "cgroup.procs").read_text().split() == [str(sleeper.pid)]


def _remove_where_empty(folder: Path) -> None:
    with suppress(OSError):  # another run has its groups in there
        folder.rmdir()


def run_id(folder: Path) -> str:
    """The id that a run's control groups and sockets are named by."""
    return str(read_json(folder / "manifest.json")["id"])


def assert_nothing_is_left(place: Place, folder: Path) -> None:
    """No process, control group, socket folder or state file of the run."""
    assert mentioning(str(folder)) == []
    assert control_groups(run_id(folder)) == []
    assert [name for name in place.left_behind() if name.startswith(run_id(folder))] == []


def all_members(going: Going, backend: str) -> set[ProcessId]:
    """The processes of a run that generates."""
    members = going.members()
    # Inner process, forkserver, four workers; in the capsule also five shells of Mininet's, and the ballast.
    assert len(members) >= (12 if backend == "mininet" else 6), members
    init = going.record().init
    assert init is not None and init in members
    return members


@pytest.mark.timeout(240)
@BACKENDS
def test_killing_what_the_user_started_ends_the_run_and_clean_takes_away_only_what_it_left(
    backend: str, place: Place, long_run: Path, waiting_run: Path, gate: Path
) -> None:
    with (
        things_made_by_hand(),
        place.started(long_run, "--backend", backend, *UNJUDGED) as doomed,
        place.started(waiting_run, "--backend", backend, "--verify", *UNJUDGED) as other,
    ):
        folder = doomed.until_token(2)
        other.record()
        members = all_members(doomed, backend)
        assert bool(control_groups(run_id(folder))) is (backend == "mininet")
        doomed.process.kill()
        assert_they_end(members, WITHIN_S)

        cleaned = place.testbed("clean")
        assert cleaned.code == 0, cleaned.err
        assert f"Removed what run {run_id(folder)} left." in cleaned.out
        assert f"Left run {run_id(other.folder())} alone: it is going on." in cleaned.out
        assert_nothing_is_left(place, folder)
        assert other.process.poll() is None

        gate.touch()
        finished = other.end()
        assert finished.code == 0, finished.err
        assert finished.summary["verified"] == "bitwise" and len(finished.summary["tokens"]) == 8
    assert place.left_behind() == []


@BACKENDS
def test_killing_the_process_inside_ends_the_run_which_says_so_and_cleans_up(
    backend: str, place: Place, long_run: Path
) -> None:
    with place.started(long_run, "--backend", backend, *UNJUDGED) as going:
        folder = going.until_token(2)
        members = all_members(going, backend)
        init = going.record().init
        assert init is not None and init.kill()
        assert_they_end(members, WITHIN_S)
        ended = going.end()
    assert ended.code == 5
    last = ended.err.splitlines()[-1]  # `unshare` may say before it that its child was killed
    assert last.startswith("Error: ") and "before it could write its summary" in last
    assert_nothing_is_left(place, folder)
    assert place.left_behind() == []


@BACKENDS
@pytest.mark.parametrize("moment", ["at once", "while it loads", "while it builds", "while it generates"])
def test_ctrl_c_cleans_up_by_itself(moment: str, backend: str, place: Place, long_run: Path) -> None:
    before = interfaces()
    with place.started(long_run, "--backend", backend, *UNJUDGED) as going:
        going.record()
        if moment == "while it loads":
            time.sleep(0.5)  # in the middle of importing torch
        elif moment == "while it builds":
            going.wait(lambda: len(going.members()) >= 5 or None, "Mininet's shells, or a forkserver and workers")
        elif moment == "while it generates":
            going.until_token(2)
        members = going.members()
        going.process.send_signal(signal.SIGINT)
        ended = going.end()
        assert (ended.code, ended.err.strip()) == (130, "Interrupted.")
        assert_they_end(members, WITHIN_S)
        assert_nothing_is_left(place, going.folder())
    assert place.left_behind() == [] and interfaces() <= before
    if moment == "while it generates":
        summary = read_json(going.folder() / "summary.json")
        assert summary["status"] == "interrupted" and len(summary["tokens"]) >= 2


DEAF_POLICY = """
import signal, time
from pathlib import Path


class Deaf:
    name = "deaf"

    def reset(self, seed):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        Path(__file__).with_name("deaf").touch()

    def decide(self, observation, placement):
        time.sleep(600)
"""


@BACKENDS
def test_a_run_that_is_deaf_to_ctrl_c_is_killed_at_the_second_and_counts_as_interrupted(
    backend: str, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "policy.py").write_text(DEAF_POLICY)
    experiment = write_experiment(tmp_path, "deaf", policy=f"{tmp_path / 'policy.py'}:Deaf")
    with place.started(experiment, "--backend", backend, *UNJUDGED) as going:
        going.wait(lambda: (tmp_path / "deaf").exists() or None, "a policy that sleeps")
        members = going.members()
        going.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert going.process.poll() is None
        going.process.send_signal(signal.SIGINT)
        ended = going.end()
        assert (ended.code, ended.err.splitlines()[-1]) == (130, "Interrupted.")
        assert_they_end(members, WITHIN_S)
        assert_nothing_is_left(place, going.folder())
    assert place.left_behind() == []


def test_a_device_that_is_paused_when_the_controller_is_killed_ends_too(place: Place, tmp_path: Path) -> None:
    (tmp_path / "pause.csv").write_text("time,target,quantity,value\n0,device/b,pause,0\n0.5,device/b,pause,1\n")
    experiment = write_experiment(
        tmp_path, "paused", tokens=200, policy="round-robin", traces=["pause.csv"], trace_clock="time"
    )
    with place.started(experiment, "--backend", "local", *UNJUDGED) as going:
        members = going.wait(
            lambda: {each for each in going.members() if is_stopped(each.pid)} or None, "a paused device"
        )
        assert len(members) == 1
        going.process.kill()
        assert_they_end(members, WITHIN_S)


@pytest.mark.timeout(300)
def test_two_replays_started_together_queue_and_both_finish_right(place: Place, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, policy="round-robin")
    arguments = ("--backend", "mininet", "--verify", "--accept-unfaithful")
    with place.started(experiment, *arguments) as one, place.started(experiment, *arguments) as two:
        ended = [one.end(), two.end()]
    assert [end.code for end in ended] == [0, 0], [end.err for end in ended]
    first, second = (end.summary for end in ended)
    assert first["path"] != second["path"] and first["tokens"] == second["tokens"]
    assert first["verified"] == second["verified"] == "bitwise"
    waited = [end for end in ended if "waiting for another emulated run on this host to finish" in end.err]
    assert waited, "both ran at once, or a stranger's run ended between the two"
    assert place.left_behind() == []


def test_a_held_run_takes_commands_in_its_devices_until_ctrl_c(place: Place, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    with place.started(experiment, "--backend", "mininet", "--hold", *UNJUDGED) as going:
        folder = going.folder()
        going.wait(lambda: (folder / "live.json").exists() or None, "a network that is held")
        address = place.testbed("exec", folder, "b", "--", "ip", "-o", "-4", "addr")
        assert address.code == 0, address.err
        assert "b-eth0" in address.out and "10.0.0.2/" in address.out
        pinged = place.testbed("exec", folder, "b", "--", "ping", "-c", "1", "-W", "5", "10.0.0.1")
        assert pinged.code == 0, pinged.out + pinged.err
        assert place.testbed("exec", folder, "b", "--", "sh", "-c", "exit 7").code == 7
        unknown = place.testbed("exec", folder, "z", "--", "true")
        assert unknown.code == 2 and "'z'" in unknown.sentence

        members = going.members()
        going.process.send_signal(signal.SIGINT)
        ended = going.end()
        assert ended.code == 0, ended.err
        assert ended.summary["status"] == "done" and len(ended.summary["tokens"]) == 12
        assert_they_end(members, WITHIN_S)
        assert_nothing_is_left(place, folder)
    over = place.testbed("exec", folder, "b", "--", "true")
    assert over.code == 2 and "is not up" in over.sentence


def test_a_user_without_privileges_runs_on_mininet_and_is_told_that_memory_limits_are_not_enforced(
    place: Place, tmp_path: Path
) -> None:
    nobody = without_rights()
    place.base.chmod(0o777)
    runtime = place.base / "nobody"
    experiment = write_experiment(place.base, policy="round-robin")
    experiment.chmod(0o644)
    ended = place.done(
        experiment,
        "--backend",
        "mininet",
        by=nobody,
        env=nobody.env
        | {
            "PATH": os.environ["PATH"],
            "TESTBED_RUNTIME_DIR": str(runtime),
            "MPLCONFIGDIR": str(place.base / "mpl"),
        },
    )
    summary = ended.summary
    assert summary["backend"] == "mininet"
    assert "not enforced" in summary["memory_enforcement"]
    assert any("memory limits are not enforced" in note for note in summary["verdict"]["notes"])
    assert list(runtime.iterdir()) == []
    manifest = read_json(ended.folder / "manifest.json")
    assert manifest["host"]["uid"] == 65534
    assert manifest["facts"]["rates"].startswith("TBF")
