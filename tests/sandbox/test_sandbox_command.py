"""A command in the sandbox is like a command: streams, exit code, signals, files; and the host stays as it was."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from guests import Sandbox, namespaces, user
from running import interfaces

MIB = 2**20


def test_output_errors_and_exit_code_come_through_apart(sandbox: Sandbox) -> None:
    done = sandbox.run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_every_byte_of_input_and_output_comes_through(sandbox: Sandbox) -> None:
    data = random.Random(1).randbytes(MIB)  # many times what a console holds
    done = sandbox.run("tee", "/dev/stderr", input=data)
    assert done.returncode == 0
    assert done.stdout == data and done.stderr == data


def test_input_that_nobody_reads_holds_nothing_up(sandbox: Sandbox) -> None:
    assert sandbox.run("true", input=bytes(MIB)).returncode == 0


def test_a_command_that_cannot_be_started_ends_like_in_a_shell(sandbox: Sandbox) -> None:
    missing = sandbox.run("no-such-program")
    assert missing.returncode == 127
    assert missing.stderr == b"testbed sandbox: no-such-program: No such file or directory\n"
    folder = sandbox.run("/etc")
    assert (folder.returncode, folder.stderr) == (126, b"testbed sandbox: /etc: Permission denied\n")


def test_a_command_killed_by_a_signal_ends_like_in_a_shell(sandbox: Sandbox) -> None:
    assert sandbox.run("sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL


def test_the_command_finds_its_folder_its_environment_and_testbed_itself(sandbox: Sandbox) -> None:
    folder = sandbox.home / "with 'odd' name"
    folder.mkdir(mode=0o777)
    script = 'pwd; echo "$TESTBED_REPLAY_TOKENS"; id -u; command -v testbed >&2; command -v tc; test -w "$TMPDIR"'
    env = {"TESTBED_REPLAY_TOKENS": "5", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(user().root)}
    done = sandbox.run("sh", "-c", script, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[:3] == [str(folder), "5", "0"]
    assert done.stdout.decode().splitlines()[3].endswith("/tc")
    assert done.stderr.decode().strip().endswith("/testbed")


def test_its_root_has_the_callers_rights_on_files_and_what_it_writes_is_the_callers(sandbox: Sandbox) -> None:
    secret = sandbox.home / "secret"
    secret.write_text("not for others")
    secret.chmod(0o600)  # of the user who runs the tests
    script = f"id -u > {sandbox.home}/kept; cat {secret}; echo mine > {secret}"
    done = sandbox.run("sh", "-c", script)
    kept = sandbox.home / "kept"
    assert kept.read_text() == "0\n" and kept.stat().st_uid == user().uid
    if user().prefix:
        assert done.returncode != 0 and b"not for others" not in done.stdout
        assert secret.read_text() == "not for others"


def test_its_kernel_has_netem_and_cgroup_v2_and_the_host_gets_no_interface_group_or_namespace(sandbox: Sandbox) -> None:
    group, before = f"headroom-guest-{os.getpid()}", interfaces()
    script = (
        "ip link add v0 type veth peer name v1 && tc qdisc add dev v0 root netem delay 7ms && tc qdisc show dev v0;"
        "ip link add br0 type bridge && ip netns add x && test -d /sys/module/openvswitch &&"
        f"mkdir /sys/fs/cgroup/{group} && cat /sys/fs/cgroup/{group}/cgroup.controllers; echo up; sleep 100"
    )
    process = sandbox.start("sh", "-c", script)
    assert process.stdout is not None and process.stderr is not None
    lines = [process.stdout.readline().decode() for _ in range(3)]
    spaces = set().union(*sandbox.namespaces())
    assert interfaces() <= before
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{group}"))
    callers = namespaces(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert "netem" in lines[0] and "delay 7ms" in lines[0]
    assert {"memory", "cpu"} <= set(lines[1].split()) and lines[2] == "up\n"
    assert spaces == callers  # it is made of plain processes, in no namespace of their own


def test_the_memory_is_what_was_asked_for(sandbox: Sandbox) -> None:
    done = sandbox.run("grep", "MemTotal", "/proc/meminfo", options=["--memory", "1 GiB"])
    assert 0.9 * 2**20 < int(done.stdout.split()[1]) <= 2**20  # KiB; the kernel keeps some for itself


def test_ctrl_c_reaches_the_command_and_its_exit_code_counts(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "trap 'echo bye; exit 9' INT; echo up; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (9, b"bye\n")


def test_a_second_ctrl_c_ends_even_a_command_that_will_not_listen(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "trap '' INT; echo up; while :; do sleep 0.05; done")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_kill_9_takes_the_guest_along_and_the_next_sandbox_removes_its_folder(sandbox: Sandbox) -> None:
    process = sandbox.start("sh", "-c", "echo up; sleep 100")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while len(sandbox.left_behind()) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    (folder,) = sandbox.left_behind()
    assert folder.startswith("headroom-sandbox-")
    assert sandbox.run("true").returncode == 0
    assert not sandbox.left_behind()


def test_the_time_limit_is_one_sentence_and_code_5(sandbox: Sandbox) -> None:
    done = sandbox.run("sleep", "100", options=["--memory", "512M", "--timeout", "3"])
    assert done.returncode == 5
    assert done.stderr == b"Error: the command did not finish within 3 s, its --timeout, and was ended\n"


def test_a_guest_that_dies_is_one_sentence_and_code_5(sandbox: Sandbox) -> None:
    done = sandbox.run("sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60")
    assert done.returncode == 5
    assert done.stderr.startswith(b"Error: the sandbox's guest died before its command ended: ")
    assert b"Kernel panic" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("memory", ["1000T", "8 PiB"])
def test_memory_that_is_not_there_is_refused(sandbox: Sandbox, memory: str) -> None:
    done: subprocess.CompletedProcess[bytes] = sandbox.run("true", options=["--memory", memory])
    assert done.returncode in (2, 3) and done.stderr.startswith(b"Error: ") and done.stderr.count(b"\n") == 1
