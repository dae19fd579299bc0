"""What others plant in the runtime folder, or write into a state file, makes `clean` remove and kill nothing else."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from testbed.cli import clean as verb
from testbed.emulation.host_lock import host_lock
from testbed.emulation.processes import ProcessId
from testbed.emulation.state_files import Record, StateFile, clean
from testbed.errors import EnvironmentLacks

GONE = ProcessId(2**22, 1)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def state(folder: Path, stem: str = "dead", **changes: Any) -> Path:
    """A state file of a run whose owner is gone, with some fields changed to anything at all."""
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(asdict(Record(stem, GONE, boot_id())) | changes))
    return path


def test_a_state_file_that_is_not_named_after_its_run_ends_nothing(
    folder: Path, bystander: subprocess.Popen[bytes]
) -> None:
    path = state(folder, run_id="other", processes=[asdict(ProcessId.of(bystander.pid))])
    (folder / "other").mkdir()
    (report,) = clean(folder).failures
    assert "dead.json" in report and "'other'" in report and path.exists() and (folder / "other").is_dir()


@pytest.mark.parametrize("way", ["symbolic link", "hard links"])
def test_a_state_file_that_is_a_link_is_not_believed(
    way: str, folder: Path, tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    real = state(tmp_path, processes=[asdict(ProcessId.of(bystander.pid))])
    link = os.symlink if way == "symbolic link" else os.link
    link(real, folder / "dead.json")
    (report,) = clean(folder).failures
    assert "dead.json" in report and way in report and real.exists() and (folder / "dead.json").exists()


WRONG: dict[str, Any] = {
    "a pid that is a text": {"init": {"pid": "1", "start": 1}},
    "a pid that is true": {"owner": {"pid": True, "start": 1}},
    "a process group": {"processes": [{"pid": -1, "start": 1}]},
    "the first process": {"processes": [{"pid": 1, "start": 1}]},
    "a pid beyond all": {"init": {"pid": 10**30, "start": 1}},
    "groups that are a text": {"cgroups": "/sys/fs/cgroup"},
    "groups that are numbers": {"cgroups": [1]},
    "a folder that is a list": {"socket_folder": ["/"]},
    "a zero byte": {"cgroups": ["/sys/\0"]},
    "a run_id that is null": {"run_id": None},
    "a run_id that leads up": {"run_id": "../x"},
    "no processes": {"processes": None},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_state_file_with_a_wrong_type_is_one_failure_and_stays(changes: dict[str, Any], folder: Path) -> None:
    path = state(folder, **changes)
    (report,) = clean(folder).failures
    assert "dead.json" in report and report.isprintable() and path.exists()


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"run_id": "' + "x" * 2**23, "\xff"])
def test_a_state_file_that_is_no_record_is_one_failure_and_stays(text: str, folder: Path) -> None:
    (folder / "dead.json").write_bytes(text.encode("latin-1"))
    (report,) = clean(folder).failures
    assert "dead.json" in report and len(report) < 500 and (folder / "dead.json").exists()


def test_a_folder_that_only_looks_like_a_control_group_is_left(folder: Path, tmp_path: Path) -> None:
    looks = tmp_path / "headroom" / "dead" / "a"
    looks.mkdir(parents=True)
    (looks / "cgroup.procs").write_text(f"{os.getpid()}\n")
    climbing = f"{looks}/../../dead/a"
    state(folder, cgroups=[str(looks), climbing])
    report = clean(folder)
    assert len(report.failures) == 2 and looks.is_dir() and report.killed == []


def test_a_group_of_another_run_is_left_and_the_run_is_kept(folder: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    state(folder, cgroups=[mounts[0], f"{mounts[0]}/../.."])
    assert len(clean(folder).failures) == 2 and (folder / "dead.json").exists()


def test_a_socket_folder_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (folder / "dead").symlink_to(tmp_path)
    state(folder, socket_folder=str(folder / "dead"))
    (report,) = clean(folder).failures
    assert str(folder / "dead") in report and (tmp_path / "precious").exists() and (folder / "dead").is_symlink()


def test_links_in_a_socket_folder_are_removed_and_what_they_lead_to_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (folder / "dead").mkdir()
    (folder / "dead" / "folder").symlink_to(tmp_path)
    os.link(tmp_path / "precious", folder / "dead" / "file")
    state(folder, socket_folder=str(folder / "dead"))
    report = clean(folder)
    assert report.failures == [] and report.removed_runs == ["dead"]
    assert (tmp_path / "precious").read_text() == "kept" and list(folder.iterdir()) == []


def test_half_written_state_files_go_with_their_run_and_not_with_another(folder: Path) -> None:
    state(folder)
    (folder / ".dead.1.new").touch()
    (folder / ".early.77.new").touch()
    living = StateFile.create("alive", folder=folder)
    (folder / ".alive.5.new").touch()
    report = clean(folder)
    assert report.failures == [] and report.living_runs == ["alive"]
    assert sorted(path.name for path in folder.iterdir()) == [".alive.5.new", "alive", "alive.json", "alive.lock"]
    living.close()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


OBSTACLES: dict[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir, "a symbolic link": link, "a pipe": pipe,
}  # fmt: skip


@pytest.mark.parametrize("kind", OBSTACLES)
def test_an_obstacle_at_a_locks_path_is_one_sentence_and_other_runs_are_cleaned(kind: str, folder: Path) -> None:
    (folder / "precious").write_text("kept")
    state(folder, "blocked")
    state(folder, "dead")
    OBSTACLES[kind](folder / "blocked.lock")
    report = clean(folder)
    (failure,) = report.failures
    assert f"{folder}/blocked.lock is {kind}" in failure and failure.endswith("remove it")
    assert report.removed_runs == ["dead"] and (folder / "precious").read_text() == "kept"
    with pytest.raises(EnvironmentLacks, match=kind):
        StateFile.create("blocked", folder=folder)


@pytest.mark.parametrize("kind", OBSTACLES)
def test_an_obstacle_at_the_host_locks_path_is_one_sentence(kind: str, folder: Path) -> None:
    (folder / "precious").write_text("kept")
    OBSTACLES[kind](folder / "host.lock")
    path = folder / "host.lock"
    with pytest.raises(EnvironmentLacks, match=f"host.lock is {kind}.*--share-host"), host_lock(path=path):
        pass
    assert (folder / "precious").read_text() == "kept"


def test_a_file_that_the_host_lock_is_a_second_name_of_is_not_written_to(folder: Path) -> None:
    (folder / "precious").write_text("kept")
    os.link(folder / "precious", folder / "host.lock")
    with pytest.raises(EnvironmentLacks, match="hard links"), host_lock(path=folder / "host.lock"):
        pass
    assert (folder / "precious").read_text() == "kept"


def test_control_characters_in_names_and_files_are_escaped_when_they_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_RUNTIME_DIR", str(folder))
    (folder / "\x1b[31mred.json").touch()
    (folder / "a\nb.lock").touch()
    state(folder, cgroups=["/tmp/\x1b]0;title\x07"], socket_folder="/\x1b[2J")
    Path(folder / "bytes-\udcff.json").touch()
    done = CliRunner().invoke(verb.command, [])
    assert isinstance(done.exception, EnvironmentLacks)
    assert str(done.exception).isprintable() and "\\x1b[31mred" in str(done.exception)


def test_the_host_lock_that_lies_in_the_runtime_folder_is_no_run_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_RUNTIME_DIR", str(folder))
    with host_lock(path=folder / "nowhere" / "headroom-testbed.lock"):
        assert clean(folder).living_runs == []
    assert clean(folder).removed_runs == [] and (folder / "headroom-testbed.lock").exists()


def test_a_runtime_folder_that_others_can_write_to_is_not_cleaned(folder: Path) -> None:
    state(folder)
    folder.chmod(0o777)
    with pytest.raises(EnvironmentLacks, match="only you"):
        clean(folder)
    assert (folder / "dead.json").exists()


def test_an_owner_whose_state_file_was_taken_away_still_removes_what_it_made(folder: Path) -> None:
    with StateFile.create("r1", folder=folder) as mine:
        (folder / "r1.json").unlink()
        (mine.sockets / "events").touch()
    assert list(folder.iterdir()) == []
