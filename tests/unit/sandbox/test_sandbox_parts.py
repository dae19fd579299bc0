"""What the sandbox knows without a guest: frames, module order, the command's environment, what is missing here."""

import os
import signal
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.cli import run
from testbed.cli.sandbox import memory_size
from testbed.emulation import host
from testbed.errors import ConfigError, EnvironmentLacks
from testbed.experiment.schema import Experiment
from testbed.running.carry_out import at_this_hosts_pace
from testbed.sandbox import guest, uml_registers
from testbed.sandbox.guest_init import TEMPORARY, Frames, frame, load_order
from testbed.temporary import MARK, temporary_folder

FRAMES = st.lists(st.tuples(st.sampled_from([b"O", b"E", b"I"]), st.binary(max_size=40)), max_size=8)
DEPENDENCIES = """\
kernel/net/openvswitch.ko: kernel/net/nsh.ko kernel/net/nf_nat.ko kernel/net/nf_conntrack.ko kernel/net/defrag.ko
kernel/net/nf_nat.ko: kernel/net/nf_conntrack.ko kernel/net/defrag.ko
kernel/net/nf_conntrack.ko: kernel/net/defrag.ko
kernel/net/defrag.ko:
kernel/net/nsh.ko:
kernel/drivers/net/veth.ko:
kernel/net/sched/sch-tbf.ko.xz:
"""


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 400), max_size=10))
def test_frames_come_out_as_they_went_in_wherever_the_console_cuts_them(
    frames: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    sent = b"".join(frame(kind, payload) for kind, payload in frames)
    edges = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    receiver = Frames()
    got = [each for start, end in pairwise(edges) for each in receiver.feed(sent[start:end])]
    assert got == frames


@given(wanted=st.lists(st.sampled_from(["openvswitch", "veth", "nf_nat", "nsh", "sch_tbf", "no_such_module"])))
def test_a_module_is_loaded_once_and_after_all_it_depends_on(wanted: list[str]) -> None:
    needs = {line.partition(":")[0]: line.partition(":")[2].split() for line in DEPENDENCIES.splitlines()}
    order = load_order(DEPENDENCIES, wanted)
    assert len(order) == len(set(order))
    for number, path in enumerate(order):
        assert set(needs[path]) <= set(order[:number])
    loaded = {Path(path).name.partition(".")[0].replace("-", "_") for path in order}
    assert set(wanted) - {"no_such_module"} <= loaded


def test_the_commands_environment_is_the_callers_with_the_guests_own_temporary_folder() -> None:
    given_env = {
        "TESTBED_REPLAY_TOKENS": "5", "PATH": "/opt/bin:/usr/bin", "TMPDIR": "/home/me/tmp",
        "TESTBED_RUNTIME_DIR": "/run/user/7/x", "XDG_RUNTIME_DIR": "/run/user/7",
    }  # fmt: skip
    env = guest.guest_environment(given_env)
    assert env["TESTBED_REPLAY_TOKENS"] == "5" and env["TMPDIR"] == TEMPORARY
    assert "TESTBED_RUNTIME_DIR" not in env and "XDG_RUNTIME_DIR" not in env
    path = env["PATH"].split(os.pathsep)
    assert path[:2] == ["/opt/bin", "/usr/bin"] and "/usr/sbin" in path and str(Path(sys.executable).parent) in path


def test_where_user_mode_linux_is_missing_the_command_ends_with_3_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("testbed.programs.SYSTEM_FOLDERS", ())
    assert run(["sandbox", "--share-host", "--", "true"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.endswith("apt-get install user-mode-linux\n")


def test_no_place_for_the_memory_is_one_sentence_with_what_was_tried() -> None:
    with pytest.raises(EnvironmentLacks, match=r"no place for the sandbox's .* GiB of memory \(.*free.*--memory"):
        guest.memory_folder(2**60)
    assert guest.memory_folder(1).is_dir()


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 2**32), ("512M", 2**29), ("4 GiB", 2**32), ("1 GB", 10**9), ("1.5G", 3 * 2**29)]
)
def test_a_memory_size_may_be_written_short(text: str, size: int) -> None:
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["64M", "4", "4 Gbit", "lots", "-1G"])
def test_a_memory_size_that_is_none_or_too_little_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        memory_size(text)


@pytest.mark.parametrize("folder", ["/proc", "/dev/shm"])
def test_a_folder_that_the_guest_cannot_see_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "lacking", lambda: None)
    with pytest.raises(ConfigError, match=f"the current folder {folder} cannot be seen in the sandbox"):
        guest.run(["true"], guest.Streams(None, sys.stdout.buffer, sys.stderr.buffer), cwd=Path(folder))


@pytest.mark.parametrize(
    ("in_guest", "emulated", "overrides", "dilation"),
    [
        (True, True, [], 2.0),
        (True, True, ["dilation=1"], 1.0),
        (True, True, ["dilation=3"], 3.0),
        (True, False, [], 1.0),
        (False, True, [], 1.0),
    ],
)
def test_a_guest_takes_twice_the_time_unless_the_experiment_says_otherwise(
    in_guest: bool, emulated: bool, overrides: list[str], dilation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "in_user_mode_linux", lambda: in_guest)
    asked = Experiment.load(Path(__file__).parents[3] / "experiments" / "small-scale.yaml", overrides)
    taken = at_this_hosts_pace(asked, emulated)
    assert taken.dilation == dilation
    assert taken.to_dict() == asked.to_dict() | {"dilation": dilation}


def test_a_processor_with_amx_needs_a_compiler_which_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(uml_registers, "CPUINFO", cpuinfo)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("testbed.programs.SYSTEM_FOLDERS", ())
    cpuinfo.write_text("flags\t\t: fpu avx512f\n")
    assert uml_registers.lacking() is None and uml_registers.preloads(tmp_path) == {}
    cpuinfo.write_text("flags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n")
    lacking = uml_registers.lacking()
    assert lacking is not None and "AMX" in lacking and "apt-get install tcc" in lacking
    (tmp_path / "tcc").symlink_to("/bin/false")
    with pytest.raises(EnvironmentLacks, match="tcc could not compile"):
        uml_registers.preloads(tmp_path)


def test_a_guest_that_hangs_after_its_sandbox_was_killed_is_ended_and_another_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, unmarked = (Path(tempfile.mkdtemp(prefix=guest.FOLDER_PREFIX)) for _ in range(2))
    with temporary_folder(guest.FOLDER_PREFIX) as going_on:
        guests = [
            subprocess.Popen([sys.executable, "-c", "input()", f"init={folder}/init"], stdin=subprocess.PIPE)
            for folder in (killed, unmarked, going_on)
        ]
        try:
            (killed / MARK).touch()
            assert guest.remove_killed() == [str(killed)]
            assert guests[0].wait(20) == -signal.SIGKILL and not killed.exists()
            assert [one.poll() for one in guests[1:]] == [None, None] and unmarked.is_dir() and going_on.is_dir()
        finally:
            for one in guests:
                one.kill()
                one.communicate()
