"""The host's calibration: its file, what holds without one, and the fit of the time per hop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_cases import quickstart

from testbed.controller.calibration import (
    NOMINAL,
    NOMINAL_HOP_S,
    HostCalibration,
    calibration_path,
    host_calibration,
    write_calibration,
)
from testbed.errors import ConfigError
from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost.model import token_latency
from testbed.placement.plan import make_plan
from testbed.running.calibrate import MeasuredRun, fit_hop

MINE = HostCalibration(3e-4, 1e-5, "mininet", "2026-01-01T00:00:00Z", {"cores": 2}, {"ffn": 1e-3}, "gpt2")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TESTBED_CALIBRATION", str(tmp_path / "deep" / "mine.json"))
    return tmp_path / "deep" / "mine.json"


def test_the_file_is_in_the_users_cache_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TESTBED_CALIBRATION", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration_path() == tmp_path / "headroom" / "calibration.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert calibration_path() == Path("/home/somebody/.cache/headroom/calibration.json")


def test_without_a_file_the_nominal_values_hold(file: Path) -> None:
    assert host_calibration() == NOMINAL
    assert not NOMINAL.measured and NOMINAL.hop_overhead_s == NOMINAL_HOP_S


def test_what_was_written_is_read_back(file: Path) -> None:
    assert write_calibration(MINE) == file
    assert host_calibration() == MINE and MINE.measured
    assert json.loads(file.read_text())["version"] == 1
    assert [path.name for path in file.parent.iterdir()] == ["mine.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 9}, "version 9"),
        ({"hop_overhead_s": "fast"}, "hop_overhead_s is 'fast'"),
        ({"hop_overhead_s": -1.0}, "hop_overhead_s is -1.0"),
        ({"hop_overhead_s": 1}, "hop_overhead_s is 1"),
        ({"pacing_floor_s": None}, "pacing_floor_s is nothing"),
        ({"host": []}, "host is \\[\\]"),
        ({"block_seconds": {"ffn": {}}}, "block_seconds.*expected float"),
        ({"warp": 3}, "unknown key 'warp'"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_the_way_out(
    file: Path, change: dict[str, object], told: str
) -> None:
    write_calibration(MINE)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=f"{file}.*{told}.*testbed calibrate"):
        host_calibration()


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 20_000, "1" * 5_000, '{"version": 1, "hop_overhead_s": NaN}'])
def test_a_file_that_is_no_json_object_is_refused(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(ConfigError, match="run `testbed calibrate` again"):
        host_calibration()


@given(st.integers(1, 4000))
def test_the_fit_finds_the_time_per_hop_that_tokens_were_made_with(hop_us: int) -> None:
    measured = []
    for stride in (1, 17):
        observation = quickstart()
        blocks = blocks_of(observation.shape)
        placement = Placement({block: "abcd"[number // stride % 4] for number, block in enumerate(blocks)})
        plan = make_plan(observation, placement)
        latency = token_latency(replace(observation, hop_overhead_s=hop_us * 1e-6), plan, 40)
        measured.append(MeasuredRun(observation, plan, 40, latency))
    assert fit_hop(measured) == pytest.approx(hop_us * 1e-6, abs=1.5e-6)


def test_a_host_faster_than_the_model_without_software_has_no_time_per_hop() -> None:
    observation = quickstart()
    plan = make_plan(observation, Placement({block: "ab"[block.layer % 2] for block in blocks_of(observation.shape)}))
    assert fit_hop([MeasuredRun(observation, plan, 40, 0.9 * token_latency(observation, plan, 40))]) <= 1e-6
