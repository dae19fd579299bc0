"""Which devices a host keeps up with, by how many of them compute at once: one rule for doctor, dry run and verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.controller import verdict
from testbed.controller.calibration import NOMINAL_SPEED, HostCalibration
from testbed.controller.host_speed import (
    EXCESS_SHARE,
    HALVES_BYTES,
    LAYERS,
    LM_HEAD_BYTES,
    HostSpeed,
    Operation,
    Together,
    excess_s,
    fastest_Bps,
    held_up_here,
    held_up_s,
    told_rates,
    too_slow_here,
)
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.running.dry_run import plan_run

ROOT = Path(__file__).parents[3]
ONE = HostSpeed(2, 10e9, (Together(1, 2e6, (1e-3, 3e-3)), Together(4, 2e6, (2e-3, 6e-3))))


def planned(devices: int, rate: str, tmp_path: Any, policy: str = "tensor-parallel", **keys: Any) -> list[str]:
    """The warnings of a dry run of GPT-2 on so many like devices, all computing at once unless the policy differs."""
    link = {"rate": "1 Gbit/s", "delay": "0.2 ms"}
    device = {"streaming": rate, "compute": "100 GFLOP/s", "memory": "800 MiB", "storage": "1 GB/s", "link": link}
    names = [f"d{index}" for index in range(devices)]
    star = {"shape": "star", "source": "d0", "devices": dict.fromkeys(names, device)}
    (tmp_path / "own.yaml").write_text(json.dumps(star))
    at_once = {"ffn_shards": devices, "proj_rows": True, "exchange": "all-to-all"}
    experiment = {
        "model": {"preset": "gpt2", "seed": 7}, "prompt": {"ids": [1]}, "tokens": 8, "interval": 8, "policy": policy,
        "topology": str(tmp_path / "own.yaml"), "partition": at_once if policy == "tensor-parallel" else {}, **keys,
    }  # fmt: skip
    return plan_run(Experiment.from_dict(experiment, "own"), 1)["warnings"]


@pytest.mark.parametrize(
    "devices, rate, kept",
    [
        (4, "500 MB/s", True),
        (4, "1 GB/s", False),
        (4, "1.5 GB/s", False),
        (8, "250 MB/s", False),
        (16, "250 MB/s", False),
    ],
)
def test_a_dry_run_foresees_which_devices_a_two_core_host_kept_up_with(
    devices: int, rate: str, kept: bool, tmp_path: Any
) -> None:
    warnings = planned(devices, rate, tmp_path)
    assert (warnings == []) is kept
    if not kept:
        assert f"up to {devices} devices computing at once" in warnings[0] and "testbed calibrate" in warnings[0]


def test_devices_that_compute_one_after_another_may_be_as_fast_as_one(tmp_path: Any) -> None:
    assert planned(4, "1.5 GB/s", tmp_path, policy="edgeshard") == []
    assert planned(16, "2 GB/s", tmp_path, policy="edgeshard") == []


@pytest.mark.parametrize("policy", ["paper-search", "static", "headroom"])
@pytest.mark.parametrize("name", ["quickstart", "gpt2-star4"])
def test_the_shipped_devices_leave_a_small_host_air(name: str, policy: str) -> None:
    experiment = Experiment.load(ROOT / "experiments" / f"{name}.yaml", [f"policy={policy}"])
    assert plan_run(experiment, 24)["warnings"] == []


def test_the_topology_of_the_how_to_page_leaves_a_small_host_air(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own-topology.md").read_text()
    (tmp_path / "mine.yaml").write_text(page.split("cat > my_topology.yaml <<'END'\n")[1].split("\nEND\n")[0])
    overrides = [f"topology={tmp_path / 'mine.yaml'}", "traces=[]"]
    experiment = Experiment.load(ROOT / "experiments" / "quickstart.yaml", overrides)
    assert plan_run(experiment, 24)["warnings"] == []


def test_dilation_and_compute_that_is_not_paced_need_no_warning(tmp_path: Any) -> None:
    assert "`dilation: 3`" in planned(4, "1.5 GB/s", tmp_path)[0]
    assert planned(4, "1.5 GB/s", tmp_path, dilation=3) == []
    assert planned(4, "15 GB/s", tmp_path, compute="native") == []


def test_a_calibrated_host_is_judged_by_its_own_speed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    half = tuple(Together(each.count, each.read_bytes, tuple(t / 2 for t in each.finished_s), each.waited_s / 4)
                 for each in NOMINAL_SPEED.together)  # fmt: skip
    fast = HostCalibration(speed=HostSpeed(4, 30e9, half), backend="mininet")
    monkeypatch.setattr("testbed.running.dry_run.host_calibration", lambda: fast)
    assert planned(4, "1.5 GB/s", tmp_path) == []


def test_the_verdict_and_what_foresees_it_use_one_limit() -> None:
    assert verdict.EXCESS_SHARE is EXCESS_SHARE


def test_how_late_an_operation_ends_is_the_mean_over_what_was_measured() -> None:
    assert excess_s(ONE, Operation(1, 2e6, 2e-3)) == pytest.approx(0.5e-3)
    assert excess_s(ONE, Operation(3, 2e6, 2e-3)) == pytest.approx(2e-3)  # as with four
    assert excess_s(ONE, Operation(8, 2e6, 2e-3)) == pytest.approx(6e-3)  # twice as long with twice as many
    assert excess_s(ONE, Operation(8, 4e6, 2e-3)) == pytest.approx(6.8e-3)  # and four on a core, 0.2 ms each more
    assert excess_s(ONE, Operation(1, 1e6, 2e-3)) == pytest.approx(0.125e-3)  # three quarters of the time for half
    assert excess_s(ONE, Operation(1, 12e6, 2e-3)) == pytest.approx(1e-3)  # a millisecond more for 10 MB more


@given(st.floats(1e-4, 1.0), st.integers(1, 64), st.floats(1e5, 1e8))
def test_slower_devices_are_never_later(due_s: float, count: int, size: float) -> None:
    late = excess_s(NOMINAL_SPEED, Operation(count, size, due_s))
    assert 0 <= excess_s(NOMINAL_SPEED, Operation(count, size, 2 * due_s)) <= late


def test_operations_too_short_to_be_judged_make_no_device_too_slow() -> None:
    assert too_slow_here(ONE, {"a": [Operation(4, 2e6, 0.5e-3)], "b": [Operation(4, 2e6, 2e-3)]}) == {"b": 1.0}


def test_a_little_faster_than_the_fastest_rate_a_limit_is_passed() -> None:
    for each in NOMINAL_SPEED.together:
        rate = fastest_Bps(NOMINAL_SPEED, each.count)
        passed = []
        for faster in (0.99, 1.01):
            halves = [size / each.count for size in HALVES_BYTES * LAYERS]
            operations = {"a": [Operation(each.count, size, size / rate / faster) for size in halves]}
            token_s = (sum(halves) + LM_HEAD_BYTES) / rate / faster
            late_s = sum(excess_s(NOMINAL_SPEED, one) for one in operations["a"])
            late = late_s > EXCESS_SHARE * sum(one.due_s for one in operations["a"])
            passed.append(late or bool(held_up_here(NOMINAL_SPEED, operations, token_s)))
        assert passed == [False, True], each.count
    assert told_rates(ONE).startswith("1: ")


def test_waits_count_with_every_operation_but_a_sum_and_grow_with_the_square_of_the_devices() -> None:
    speed = HostSpeed(2, 10e9, (Together(1, 2e6, (1e-3,)), Together(4, 2e6, (1e-3,), 0.5e-3)))
    assert held_up_s(speed, 1) == 0 and held_up_s(speed, 3) == 0.5e-3 and held_up_s(speed, 8) == 2e-3
    operations = {"a": [Operation(4, 2e6, 1.0), Operation(4, 1e3, 1e-6, adds_up=True)], "b": [Operation(1, 2e6, 1.0)]}
    assert held_up_here(speed, operations, 10e-3) == {"a": pytest.approx(0.05)}
    assert held_up_here(speed, operations, 30e-3) == {}


def test_a_speed_is_read_back_from_the_calibrations_file_and_a_damaged_one_is_refused() -> None:
    found = HostCalibration(speed=NOMINAL_SPEED, backend="local")
    document = json.loads(json.dumps(found.to_dict()))
    assert HostCalibration.from_dict(document, "mine.json") == found
    for damaged in ({"cores": 0}, {"together": []}, {"together": [{"count": 1}]}, {"streaming_Bps": "fast"}):
        with pytest.raises(ConfigError, match="mine.json: speed.*testbed calibrate"):
            HostCalibration.from_dict(document | {"speed": document["speed"] | damaged}, "mine.json")


def test_bytes_of_a_format_that_is_slower_to_read_weigh_more() -> None:
    speed = HostSpeed(2, 12e9, ONE.together, {"float32": 12e9, "q4_1": 3e9})
    assert speed.as_float32({"q4_1": 2e6, "float32": 1e6}) == 9e6
    assert "of these rates, bytes in q4_1 25%" in told_rates(speed)


def test_a_format_that_was_not_measured_weighs_by_its_numbers() -> None:
    assert ONE.as_float32({"q8_0": 34.0, "bfloat16": 64.0, "float32": 128.0}) == 3 * 128.0


def test_blocks_in_four_bits_are_foreseen_to_be_too_fast_at_rates_that_float32_keeps(tmp_path: Any) -> None:
    rate = "300 MB/s"  # at which operations are long enough to be judged
    assert planned(4, rate, tmp_path) == []
    packed = planned(4, rate, tmp_path, model={"preset": "gpt2", "seed": 7, "format": "q4_1"})
    assert packed and "devices would wait too long for a core of this host" in packed[0]
