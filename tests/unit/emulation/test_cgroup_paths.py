"""Control groups as files: names, parsing and refusals that need no kernel."""

from pathlib import Path

import pytest

from testbed.emulation.cgroups import CgroupMode, CgroupUnavailable, DeviceCgroup, remove_group
from testbed.errors import EnvironmentLacks


def _v2(tmp_path: Path) -> DeviceCgroup:
    folder = tmp_path / "headroom" / "r" / "a"
    folder.mkdir(parents=True)
    return DeviceCgroup("v2", folder)


def test_a_machine_without_a_controller_says_why_for_which_device() -> None:
    with pytest.raises(EnvironmentLacks, match="device b: nothing is mounted"):
        DeviceCgroup.create(CgroupMode(None, "nothing is mounted"), "r", "b")


def test_a_planned_group_names_its_folders_and_makes_none(tmp_path: Path) -> None:
    mode = CgroupMode("v1", "", tmp_path / "memory", tmp_path / "cpu")
    group = DeviceCgroup.planned(mode, "r", "a", quota=True)
    assert group.paths() == (tmp_path / "memory/headroom/r/a", tmp_path / "cpu/headroom/r/a")
    assert DeviceCgroup.planned(mode, "r", "a").paths() == (tmp_path / "memory/headroom/r/a",)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../etc", "", "a/b", ".", ".."])
def test_a_device_name_that_would_leave_the_hierarchy_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CgroupUnavailable, match="cannot name a cgroup"):
        DeviceCgroup.planned(CgroupMode("v1", "", tmp_path), "r", name)


def test_a_folder_outside_the_hierarchy_is_never_removed(tmp_path: Path) -> None:
    for path in (tmp_path / "somebody" / "else", tmp_path / "headroom" / "r", tmp_path / "headroom" / ".." / "x"):
        path.mkdir(parents=True, exist_ok=True)
        with pytest.raises(CgroupUnavailable, match="is not removed"):
            remove_group(path)
        assert path.is_dir()


def test_v2_files_are_read_by_their_own_names(tmp_path: Path) -> None:
    group = _v2(tmp_path)
    (group.memory_path / "memory.max").write_text("max\n")
    (group.memory_path / "memory.current").write_text("4096\n")
    (group.memory_path / "memory.stat").write_text("anon 1234\nfile 99\nanon_thp 1000\n")
    (group.memory_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert (group.limit(), group.usage(), group.anon(), group.oom_kills()) == (-1, 4096, 1234, 2)


def test_v2_limits_forbid_swap(tmp_path: Path) -> None:
    group = _v2(tmp_path)
    for name in ("memory.max", "memory.swap.max"):
        (group.memory_path / name).touch()
    group.set_limit(65536)
    assert (group.limit(), (group.memory_path / "memory.swap.max").read_text()) == (65536, "0")


def test_a_missing_counter_is_one_sentence_with_the_file(tmp_path: Path) -> None:
    group = _v2(tmp_path)
    with pytest.raises(CgroupUnavailable, match=r"cannot read .*/memory.events: No such file"):
        group.oom_kills()
