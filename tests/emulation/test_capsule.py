"""Capsules on the real kernel: what dies with whom, exit codes, signals, and that the host keeps nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from host_pace import judging_time
from running import interfaces, processes
from unprivileged import ROOT, without_rights

from testbed.emulation.capsule import can_make_capsule, launch
from testbed.errors import EnvironmentLacks

PYTHON = os.path.realpath(sys.executable)  # everyone may run it, wherever this checkout and its venv are
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
SUPERVISOR = (
    "import sys; from testbed.emulation.capsule import launch\n"
    "program, kind, grace_s = sys.argv[1:]\n"
    "sys.exit(launch([sys.executable, '-c', program], capsule=kind == 'capsule', grace_s=float(grace_s)))"
)
PREPARED = "from testbed.emulation.capsule import prepare_inner; prepare_inner()\n"
# Says when it is up, with a grandchild that ignores everything; ends by Ctrl-C with code 7.
WAITING = (
    PREPARED + "import subprocess, sys, time\n"
    "marker = '{marker}'\n"
    "subprocess.Popen(['sh', '-c', 'trap \"\" INT TERM HUP; while :; do sleep 1; done', marker])\n"
    "try:\n"
    "    print('up', flush=True)\n"
    "    time.sleep(60)\n"
    "except KeyboardInterrupt: sys.exit(7)\n"
)
USERS = pytest.mark.parametrize("user", [[], NOBODY], ids=["root", "nobody"])


def _supervise(
    program: str, *, user: Sequence[str] = (), kind: str = "capsule", grace_s: float = 5
) -> subprocess.Popen:
    return subprocess.Popen(
        [*user, PYTHON, "-c", SUPERVISOR, program, kind, str(grace_s)],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(without_rights().root), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def _carrying(marker: str) -> list[int]:
    """Pids of living processes with `marker` as an argument, other than the supervisors that carry the program."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if marker.encode() in arguments:
            found.append(int(entry.name))
    return found


def _await(condition: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout} s"
        time.sleep(0.01)


def _run(program: str, *, user: Sequence[str] = ()) -> tuple[int, str]:
    supervisor = _supervise(PREPARED + program, user=user)
    output, _ = supervisor.communicate(timeout=30)
    return supervisor.returncode, output


@pytest.fixture
def marker() -> str:
    return f"headroom-test-{os.getpid()}-{time.monotonic_ns()}"


def test_this_machine_can_make_capsules_with_and_without_root() -> None:
    assert can_make_capsule() is None
    probe = "from testbed.emulation.capsule import can_make_capsule as can; print(can())"
    answer = subprocess.run(
        [*NOBODY, PYTHON, "-B", "-c", probe],
        cwd="/",
        env=os.environ | {"PYTHONPATH": str(without_rights().root)},
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "None\n", answer.stderr


@USERS
def test_inside_it_is_pid_one_and_root_of_a_network_with_a_working_loopback(user: list[str]) -> None:
    code, output = _run(
        "import os, socket\n"
        "server = socket.create_server(('127.0.0.1', 0)); socket.create_connection(server.getsockname())\n"
        "processes = sum(name.isdigit() for name in os.listdir('/proc'))\n"
        "print(os.getpid(), os.geteuid(), [name for _, name in socket.if_nameindex()], processes)",
        user=user,
    )
    assert (code, output) == (0, "1 0 ['lo'] 1\n")


@USERS
@pytest.mark.parametrize(("ending", "code"), [("raise SystemExit(3)", 3), ("1 / 0", 1), ("print('fine')", 0)])
def test_the_exit_code_passes_through(user: list[str], ending: str, code: int) -> None:
    assert _run(f"import sys; sys.stderr = open('/dev/null', 'w')\n{ending}", user=user)[0] == code


@pytest.mark.parametrize("kind", ["capsule", "plain"])
def test_death_by_a_signal_becomes_128_plus_its_number(kind: str) -> None:
    # PID 1 cannot be killed from inside; a plain process can.
    program = "import os; os.kill(os.getpid(), 9); raise SystemExit(5)"
    supervisor = _supervise(program, kind=kind)
    supervisor.communicate(timeout=30)
    assert supervisor.returncode == (5 if kind == "capsule" else 137)


@USERS
def test_kill_9_of_the_supervisor_ends_everything_inside_within_two_seconds(user: list[str], marker: str) -> None:
    supervisor = _supervise(WAITING.format(marker=marker), user=user)
    assert supervisor.stdout is not None and supervisor.stdout.readline() == "up\n"
    _await(lambda: len(_carrying(marker)) > 0)
    supervisor.kill()
    killed_s = time.monotonic()
    _await(lambda: not _carrying(marker))
    took_s = time.monotonic() - killed_s
    supervisor.communicate(timeout=20)  # the pipe's other ends, held inside, are closed too
    with judging_time():
        assert took_s < 2


@USERS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_inner_process_as_one_ctrl_c(user: list[str], marker: str, number: signal.Signals) -> None:
    supervisor = _supervise(WAITING.format(marker=marker), user=user)
    assert supervisor.stdout is not None and supervisor.stdout.readline() == "up\n"
    supervisor.send_signal(number)
    supervisor.communicate(timeout=20)
    assert supervisor.returncode == 7
    assert _carrying(marker) == []


def test_ctrl_c_of_a_whole_terminal_group_arrives_once(marker: str) -> None:
    counting = PREPARED + (
        "import signal, time\ncount = []\nsignal.signal(signal.SIGINT, lambda *_: count.append(1))\n"
        "print('up', flush=True)\nwhile not count: time.sleep(0.05)\n"
        "time.sleep(0.5)\nraise SystemExit(40 + len(count))"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, counting, "capsule", "5"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert supervisor.stdout is not None and supervisor.stdout.readline() == "up\n"
    os.killpg(supervisor.pid, signal.SIGINT)
    supervisor.communicate(timeout=20)
    assert supervisor.returncode == 41


def test_who_does_not_end_in_its_grace_or_is_asked_twice_is_killed_and_counts_as_interrupted(marker: str) -> None:
    stubborn = PREPARED + (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    )
    for grace_s, presses in ((0.3, 1), (30.0, 2)):
        supervisor = _supervise(stubborn, grace_s=grace_s)
        assert supervisor.stdout is not None and supervisor.stdout.readline() == "up\n"
        for _ in range(presses):
            supervisor.send_signal(signal.SIGINT)
            time.sleep(0.5)  # two signals at once would be one
        supervisor.communicate(timeout=20)
        assert supervisor.returncode == 130


@pytest.mark.quiet
def test_interfaces_and_namespaces_of_a_capsule_leave_no_trace_on_the_host() -> None:
    def host() -> set[str]:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return interfaces() | {mount for mount in mounts if " /tmp/hr-" not in mount}  # another test's

    before = host()
    code, output = _run(
        "import os, subprocess\n"
        "for command in ('link add va type veth peer name vb', 'link add br0 type bridge', 'link set va up'):\n"
        "    subprocess.run(['ip', *command.split()], check=True)\n"
        "print(os.readlink('/proc/self/ns/net'))"
    )
    assert code == 0
    assert host() <= before
    assert not list(processes(lambda pid: os.readlink(f"/proc/{pid}/ns/net") == output.strip()))


def test_the_pids_told_are_the_hosts_and_signals_handlers_come_back() -> None:
    told: list[tuple[int, str]] = []

    def started(process: int, inner: int) -> None:
        assert process != inner
        told.append((inner, Path(f"/proc/{inner}/status").read_text()))

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert launch(["sleep", "0.3"], on_start=started) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    [(inner, status)] = told
    assert f"NSpid:\t{inner}\t1\n" in status


def test_a_program_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(EnvironmentLacks, match="cannot start /no/such"):
        launch(["/no/such"], capsule=False)


def test_a_machine_without_unshare_says_which_package_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("testbed.programs.SYSTEM_FOLDERS", ())
    assert can_make_capsule() == "there is no program `unshare`: install util-linux"
