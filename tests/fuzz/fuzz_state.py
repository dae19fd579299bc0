"""The state files of runs, which `clean` reads, and the calibration of the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import files_like
from hypothesis import given

from testbed.controller.calibration import PATH_VARIABLE, HostCalibration, host_calibration
from testbed.emulation.state_files import StateFile, clean, find_live

CALIBRATION = HostCalibration(3e-4, 1e-5, "mininet", "2026-01-01T00:00:00Z", {"cores": 2}, {"ffn": 1e-3}, "gpt2")
STATE = {
    "run_id": "0101000000-abcdef",
    "owner": {"pid": 2**22 + 1, "start": 1},
    "boot_id": "00000000-0000-0000-0000-000000000000",
    "init": {"pid": 2**22 + 2, "start": 2},
    "processes": [{"pid": 2**22 + 3, "start": 3}],
    "cgroups": ["/sys/fs/cgroup/headroom/0101000000-abcdef/a"],
    "socket_folder": "/nowhere/0101000000-abcdef",
    "run_folder": "/nowhere/runs/x",
}
"""Of a boot that never was and of processes that cannot be: nothing here may be ended or removed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("calibration") / "calibration.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PATH_VARIABLE, str(path))
        yield path


@given(content=files_like(CALIBRATION.to_dict()))
def fuzz_the_calibration(calibration: Path, content: bytes) -> None:
    calibration.write_bytes(content)
    found = host_calibration()
    assert 0 <= found.hop_overhead_s < 1 and 0 <= found.pacing_floor_s < 1
    assert isinstance(found.backend, str) and isinstance(found.model, str) and isinstance(found.created, str)
    assert isinstance(found.host, dict)
    assert all(isinstance(seconds, float | int) for seconds in found.block_seconds.values())


@given(content=files_like(STATE))
def fuzz_the_state_of_a_run(folder: Path, content: bytes) -> None:
    path = folder / "0101000000-abcdef.json"
    path.write_bytes(content)
    assert find_live(Path("/nowhere/runs/x"), folder) is None
    report = clean(folder)
    assert report.killed == [] and report.removed_paths == [] and report.living_runs == []
    assert path.exists() == bool(report.failures)
    path.write_bytes(content)
    StateFile.attach(path)
