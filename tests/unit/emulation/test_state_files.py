"""Run states: what is written, who is living, and that only recorded things are removed."""

import errno
import fcntl
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation.host_lock import host_lock
from testbed.emulation.processes import ProcessId
from testbed.emulation.runtime_folder import outer_uid, runtime_folder, socket_path
from testbed.emulation.state_files import (
    Record,
    StateFile,
    clean,
    find_live,
    take_away,
)
from testbed.errors import EnvironmentLacks

_PROCESSES = st.builds(ProcessId, st.integers(1, 2**22), st.integers(0, 2**40))


def _run_and_die(folder: Path, *, then: str = "") -> Record:
    """A run whose owner was killed with -9."""
    program = (
        "import sys, os, signal; from pathlib import Path; from testbed.emulation.state_files import StateFile\n"
        f"state = StateFile.create('dead', folder=Path({str(folder)!r}))\n{then}\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    return Record.from_json((folder / "dead.json").read_text())


@given(
    st.builds(
        Record,
        st.text("abc0", min_size=1),
        _PROCESSES,
        st.just("boot"),
        st.none() | _PROCESSES,
        st.lists(_PROCESSES).map(tuple),
        st.lists(st.text()).map(tuple),
        st.none() | st.text(),
        st.none() | st.text(),
    )
)
def test_a_record_survives_its_file(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


def test_what_is_recorded_is_on_disk_at_once_and_gone_after_closing(folder: Path) -> None:
    with StateFile.create("r1", Path("/runs/x"), folder=folder) as state:
        assert state.sockets.is_dir() and state.sockets.stat().st_mode & 0o777 == 0o700
        state.record(init=os.getpid(), cgroups=[Path("/sys/x/headroom/r1/a")])
        written = Record.from_json(state.path.read_text())
        assert written.init == ProcessId.of(os.getpid())
        assert written.cgroups == ("/sys/x/headroom/r1/a",)
        assert written.run_folder == "/runs/x"
        state.record(init=None)
    assert list(folder.iterdir()) == []


def test_a_second_process_can_add_to_the_record_without_losing_the_first_ones_part(folder: Path) -> None:
    owner = StateFile.create("r1", folder=folder)
    inside = StateFile.attach(owner.path)
    owner.record(processes=[os.getpid()])
    inside.record(cgroups=["/sys/x/headroom/r1/a"])
    assert Record.from_json(owner.path.read_text()).processes == (ProcessId.of(os.getpid()),)
    owner.record(processes=[])
    assert take_away(owner).failures == []


def test_what_two_processes_record_at_the_same_time_is_all_there(
    folder: Path, bystander: subprocess.Popen[bytes]
) -> None:
    inside = "import sys; from pathlib import Path; from testbed.emulation.state_files import StateFile\n"
    inside += "state = StateFile.attach(Path(sys.argv[1])); print(flush=True); input()\n"
    inside += "[state.add_process(int(sys.argv[2]), cgroups=[str(count)]) for count in range(60)]"
    with StateFile.create("r1", folder=folder) as state:
        command = [sys.executable, "-c", inside, state.path, str(bystander.pid)]
        second = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert second.stdin is not None and second.stdout is not None
        second.stdout.readline()  # it is ready
        second.stdin.write("\n")
        second.stdin.flush()
        for _ in range(60):
            state.add_process(bystander.pid)
        second.communicate()
        assert second.returncode == 0
        record = Record.from_json(state.path.read_text())
        state.record(processes=[], cgroups=[])
        assert len(record.processes) == 120 and record.cgroups == ("59",)


def test_a_process_that_ended_before_it_could_be_recorded_is_left_out(folder: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    with StateFile.create("r1", folder=folder) as state:
        state.record(init=ended.pid, processes=[ended.pid])
        assert (state.current.init, state.current.processes) == (None, ())


def test_a_living_run_is_found_by_its_folder_and_left_alone(folder: Path) -> None:
    state = StateFile.create("r1", Path("/runs/x"), folder=folder)
    found = find_live(Path("/runs/x"), folder)
    assert found is not None and found.run_id == "r1"
    assert find_live(Path("/runs/y"), folder) is None
    report = clean(folder)
    assert (report.living_runs, report.removed_runs) == (["r1"], [])
    assert state.path.exists() and state.sockets.is_dir()


def test_two_runs_cannot_have_one_name(folder: Path) -> None:
    _first = StateFile.create("r1", folder=folder)
    with pytest.raises(EnvironmentLacks, match="already going on"):
        StateFile.create("r1", folder=folder)


def test_clean_takes_away_what_a_killed_owner_left_and_nothing_beside_it(
    folder: Path, bystander: subprocess.Popen[bytes]
) -> None:
    with subprocess.Popen(["sleep", "60"]) as orphan:
        _run_and_die(folder, then=f"state.record(processes=[{orphan.pid}]); (state.sockets / 's').touch()")
        (folder / "not-a-run").mkdir()
        report = clean(folder)
        assert report.removed_runs == ["dead"] and report.killed == [orphan.pid] and report.failures == []
        assert orphan.wait(5) == -signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == ["not-a-run"]


@pytest.mark.parametrize("what", ["start", "boot_id"])
def test_a_process_that_merely_has_the_same_number_is_not_killed(
    folder: Path, bystander: subprocess.Popen[bytes], what: str
) -> None:
    record, process = _run_and_die(folder), ProcessId.of(bystander.pid)
    if what == "start":
        record = replace(record, processes=(replace(process, start=process.start - 1),))
    else:
        record = replace(record, processes=(process,), boot_id="another boot")
    (folder / "dead.json").write_text(record.to_json())
    report = clean(folder)
    assert report.removed_runs == ["dead"] and report.killed == []


def test_a_state_file_that_names_foreign_folders_removes_none_of_them(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    record = replace(_run_and_die(folder), socket_folder=str(precious), cgroups=(str(precious),))
    (folder / "dead.json").write_text(record.to_json())
    report = clean(folder)
    assert precious.is_dir() and report.removed_runs == [] and len(report.failures) == 2
    assert (folder / "dead.json").exists()


def test_a_broken_state_file_is_reported_by_name_and_left(folder: Path) -> None:
    (folder / "odd.json").write_text(json.dumps({"run_id": "odd"}))
    report = clean(folder)
    assert len(report.failures) == 1 and "odd.json" in report.failures[0]
    assert (folder / "odd.json").exists()


def test_the_lock_file_of_an_owner_that_died_before_its_first_record_is_cleaned(folder: Path) -> None:
    (folder / "early.lock").touch()
    assert clean(folder).failures == []
    assert list(folder.iterdir()) == []


def test_runs_that_start_while_another_process_cleans_are_never_touched(folder: Path) -> None:
    cleaner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from pathlib import Path; from testbed.emulation.state_files import clean\n"
            f"print('go', flush=True)\nwhile True: assert not clean(Path({str(folder)!r})).removed_runs",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert cleaner.stdout is not None and cleaner.stdout.readline() == b"go\n"
        for number in range(200):
            with StateFile.create(f"r{number}", folder=folder) as state:
                assert state.path.exists() and state.sockets.is_dir()
        assert cleaner.poll() is None
    finally:
        cleaner.kill()
        _, errors = cleaner.communicate()
    assert b"Error" not in errors
    clean(folder)
    assert list(folder.iterdir()) == []


def test_a_socket_path_that_the_kernel_takes_is_accepted_and_one_character_more_is_refused(tmp_path: Path) -> None:
    room = 107 - len(str(tmp_path)) - 1
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(tmp_path, "s" * room)))
    with pytest.raises(EnvironmentLacks, match="has 108 characters .* at most 107"):
        socket_path(tmp_path, "s" * (room + 1))


def test_a_run_in_a_folder_too_deep_for_sockets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    with pytest.raises(EnvironmentLacks, match="TESTBED_RUNTIME_DIR"):
        StateFile.create("r1", folder=deep)
    assert list(deep.iterdir()) == []


def test_a_runtime_folder_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_RUNTIME_DIR", str(tmp_path / "mine"))
    assert runtime_folder().stat().st_mode & 0o777 == 0o700
    (tmp_path / "mine").chmod(0o755)
    with pytest.raises(EnvironmentLacks, match="0700"):
        runtime_folder()


def test_the_host_lock_makes_the_second_wait_and_tells_it_for_whom(tmp_path: Path) -> None:
    path, order = tmp_path / "host.lock", []

    def second() -> None:
        with host_lock(lambda message: order.append(message), path=path):
            order.append("second in")

    with host_lock(path=path):
        waiter = threading.Thread(target=second)
        waiter.start()
        while not order:
            time.sleep(0.01)
        order.append("first out")
    waiter.join(5)
    assert f"pid {os.getpid()}" in order[0] and order[1:] == ["first out", "second in"]
    assert path.stat().st_mode & 0o777 == 0o666


def test_who_waits_is_told_which_user_holds_the_lock_whatever_the_file_says(tmp_path: Path) -> None:
    """Any user may hold the lock, without a run, for as long as he likes, and write what he likes into its file."""
    path, said = tmp_path / "host.lock", []
    path.write_text("1\n")
    path.chmod(0o666)
    tmp_path.chmod(0o755)
    with path.open() as opened:
        step_down = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        hold = ["flock", "--no-fork", "/dev/stdin", "sh", "-c", "echo; exec sleep 60"]
        holder = subprocess.Popen([*step_down, *hold], stdin=opened, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline()

    def wait(message: str) -> None:
        said.append(message)
        holder.kill()

    with host_lock(wait, path=path):
        holder.communicate()
    user = pwd.getpwuid(65534 if step_down else os.geteuid()).pw_name
    assert f"(pid {holder.pid} of user {user} holds {path}); --share-host does not wait" in said[0]


def test_waiting_for_the_host_lock_can_be_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "host.lock"
    program = (
        "from pathlib import Path; from testbed.emulation.host_lock import host_lock\n"
        f"with host_lock(lambda m: print(m, flush=True), path=Path({str(path)!r})): pass"
    )
    with host_lock(path=path):
        waiting = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert waiting.stdout is not None and b"waiting" in waiting.stdout.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(5) != 0
        waiting.stdout.close()


def test_the_host_lock_falls_back_where_its_folder_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_RUNTIME_DIR", str(tmp_path / "mine"))
    with (
        host_lock(path=tmp_path / "nowhere" / "host.lock"),
        (tmp_path / "mine" / "host.lock").open() as same,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(same, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_outer_user_is_the_real_one_even_where_everyone_seems_root() -> None:
    assert outer_uid() == os.geteuid()


def test_a_leader_that_is_gone_while_its_session_goes_on_is_not_there_to_be_killed() -> None:
    """The kernel keeps its number for the session, and refuses a descriptor of it with another error (EINVAL)."""
    script = "sleep 60 & echo $!; read line"
    leader = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert leader.stdin is not None and leader.stdout is not None
    left = int(leader.stdout.readline())
    recorded = ProcessId.of(leader.pid)
    leader.stdin.close()
    leader.wait()
    try:
        assert os.getsid(left) == leader.pid
        assert recorded.kill() is False
    finally:
        os.kill(left, signal.SIGKILL)
        leader.stdout.close()


def test_a_process_that_linux_6_1_calls_an_invalid_argument_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_there(pid: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "pidfd_open", as_there)
    assert ProcessId.of(os.getpid()).kill() is False
