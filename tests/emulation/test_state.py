"""What a run leaves outside its capsule, with real control groups and a real capsule behind it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import alive_after

from testbed.emulation.cgroups import DeviceCgroup, detect
from testbed.emulation.processes import ProcessId
from testbed.emulation.state_files import Record, StateFile, clean, find_live

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
from pathlib import Path
from testbed.emulation.capsule import launch
from testbed.emulation.state_files import StateFile
with StateFile.create(sys.argv[1], Path(sys.argv[1])) as state:
    program = [sys.executable, "-c", sys.argv[2], str(state.path)]
    sys.exit(launch(program, on_start=lambda process, inner: state.add_process(process, init=inner)))
"""
INSIDE = """
import subprocess, sys, time
from pathlib import Path
from testbed.emulation.capsule import prepare_inner
from testbed.emulation.cgroups import DeviceCgroup, detect
from testbed.emulation.state_files import StateFile
prepare_inner()
state = StateFile.attach(Path(sys.argv[1]))
mode, run = detect(), state.current.run_id
groups = [DeviceCgroup.planned(mode, run, name) for name in "ab"]
state.record(cgroups=[path for group in groups for path in group.paths()])
for name in "ab":
    worker = subprocess.Popen(["sleep", "60"])
    DeviceCgroup.create(mode, run, name).add(worker.pid)
(state.sockets / "control").touch()
print("up", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    pass
"""


def _owner(folder: Path, run_id: str) -> subprocess.Popen[str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, run_id, INSIDE],
        cwd=ROOT,
        env=os.environ | {"TESTBED_RUNTIME_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None and owner.stdout.readline() == "up\n"
    return owner


@pytest.fixture
def folder() -> Iterator[Path]:
    """A runtime folder with a path short enough for sockets (pytest's own are not)."""
    with tempfile.TemporaryDirectory(prefix="hr-") as made:
        yield Path(made)


def test_clean_removes_a_killed_run_and_leaves_a_living_one_and_strangers(folder: Path) -> None:
    mode = detect()
    assert mode.memory_root is not None
    dead_id, live_id = f"dead-{os.getpid()}", f"live-{os.getpid()}"
    dead, live = _owner(folder, dead_id), _owner(folder, live_id)
    by_hand = mode.memory_root / f"by-hand-{os.getpid()}"
    by_hand.mkdir()
    beside = DeviceCgroup.create(mode, f"beside-{os.getpid()}", "a")
    try:
        record = Record.from_json((folder / f"{dead_id}.json").read_text())
        groups = [Path(path) for path in record.cgroups]
        assert len(groups) == 2 and all(group.is_dir() for group in groups)
        assert record.init is not None and record.init.alive()

        dead.kill()
        dead.communicate(timeout=20)
        assert alive_after({record.init}, 20.0) == set()

        report = clean(folder)
        assert report.failures == [] and report.removed_runs == [dead_id] and report.living_runs == [live_id]
        assert not groups[0].parent.exists() and not (folder / dead_id).exists()
        assert by_hand.is_dir() and beside.memory_path.is_dir()
        assert (mode.memory_root / "headroom" / live_id / "a" / "cgroup.procs").read_text().split()
        assert live.poll() is None and (folder / live_id / "control").exists()

        live.send_signal(signal.SIGINT)  # Ctrl-C cleans up by itself
        live.communicate(timeout=20)
        assert live.returncode == 0
        assert list(folder.iterdir()) == []
        assert not (mode.memory_root / "headroom" / live_id).exists()
    finally:
        by_hand.rmdir()
        beside.kill_and_remove()
        for owner in (dead, live):
            owner.kill()
            owner.communicate()
        clean(folder)


def test_a_living_run_is_found_with_its_capsule(folder: Path) -> None:
    run_id = f"found-{os.getpid()}"
    owner = _owner(folder, run_id)
    try:
        record = find_live(ROOT / run_id, folder)
        assert record is not None and record.init is not None
        assert os.readlink(f"/proc/{record.init.pid}/ns/net") != os.readlink("/proc/self/ns/net")
    finally:
        owner.send_signal(signal.SIGINT)
        owner.communicate(timeout=20)


def test_an_owner_takes_its_groups_away_even_with_processes_in_them(folder: Path) -> None:
    mode, run_id = detect(), f"own-{os.getpid()}"
    sleeper = subprocess.Popen(["sleep", "60"])
    with StateFile.create(run_id, folder=folder) as state:
        group = DeviceCgroup.planned(mode, run_id, "a")
        state.record(cgroups=group.paths())
        DeviceCgroup.create(mode, run_id, "a").add(sleeper.pid)
        assert ProcessId.of(sleeper.pid).alive()
    assert sleeper.wait(20) == -signal.SIGKILL
    assert not group.memory_path.parent.exists() and list(folder.iterdir()) == []


def test_what_another_user_has_put_into_a_runtime_folder_is_not_believed(folder: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        for stem, foreign in (("theirs", ".json"), ("locked", ".lock")):
            record = Record(stem, ProcessId(2**22, 1), boot_id(), processes=(ProcessId.of(sleeper.pid),))
            (folder / f"{stem}.json").write_text(record.to_json())
            (folder / f"{stem}.lock").touch()
            os.chown(folder / f"{stem}{foreign}", 65534, 65534)
        report = clean(folder)
        assert len(report.failures) == 2 and all("belongs to user 65534" in failure for failure in report.failures)
        assert report.killed == [] and sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
