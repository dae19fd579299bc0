"""Paced blocks take as long as the device model says, measured from outside the pacer and in a run's own log."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from host_pace import judging_time
from running import QUICKSTART, Ended, Place, rows, topology, write_experiment

from testbed.doctor import bench_concurrency
from testbed.doctor.bench_compute import DUE_S, ComputeMeasured, compare, measure_compute
from testbed.doctor.bench_concurrency import measure_speed
from testbed.errors import RunFailed
from testbed.models.presets import PRESETS
from testbed.placement.blocks import Block
from testbed.placement.latency import block_time
from testbed.placement.observation import DeviceView
from testbed.shape import WeightFormats, reshaped
from testbed.topologies.model import Topology

pytestmark = pytest.mark.quiet
FROM_S = 1e-3


@pytest.mark.parametrize("due_s", DUE_S)
def test_a_paced_operation_takes_as_long_as_the_device_model_says(due_s: float) -> None:
    measured = measure_compute(due_s)
    assert measured.due_s == pytest.approx(due_s, rel=1e-3)
    with judging_time():
        assert abs(measured.mean_error) < 0.02 and measured.p95_error < 0.05


@pytest.mark.timeout(600)
def test_the_blocks_of_a_run_take_as_long_as_the_device_model_says(quickstart: Ended, place: Place) -> None:
    found = _of_run(quickstart.folder)
    if not found.ok:  # others used the host
        found = _of_run(place.done(QUICKSTART, "--tokens", "40", "--set", "traces=[]", "--policy", "static").folder)
    with judging_time():
        assert abs(found.mean_error) < 0.02 and found.p95_error < 0.05


FINER = {  # so slow that the host is done long before
    "streaming": "1 GB/s", "compute": "20 GFLOP/s", "memory": "256 MiB", "kv_streaming": "100 MB/s", "kv_rereads": 2,
    "streaming_by_format": {"q4_0": "250 MB/s", "float16": "900 MB/s"}, "compute_by_format": {"q4_0": "10 GFLOP/s"},
    "threads": 4, "serial_share": "2 %", "barrier": "200 us",
}  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["q4_0", "float16"])
def test_the_blocks_of_a_run_follow_the_finer_numbers(name: str, place: Place, tmp_path: Path) -> None:
    model = {"preset": "smollm2-135m", "random": True, "layers": 6, "vocab": 1024, "format": name, "seed": 7}
    experiment = write_experiment(
        tmp_path, model=model, topology=topology(a=FINER, b=FINER, c=FINER, d=FINER), compute="paced", tokens=30,
        placement={"*": "a", "ffn(*)": "b"},
    )  # fmt: skip
    folder = place.done(experiment).folder
    shape = replace(reshaped(PRESETS["smollm2-135m"], 6, None, 1024), weights=WeightFormats.all_in(name))
    device = Topology.from_dict(topology(b=FINER)).device("b")
    view = DeviceView("b", device.memory_bytes, device.streaming_Bps, device.compute_flops, 1e9, device.model)
    due_s = [row["due_s"] for row in rows(folder, "spans") if row["block"] == "ffn(0)" and row["step"]]
    assert due_s and due_s == pytest.approx([block_time(shape, Block("ffn", 0), view, 1)] * len(due_s))
    with judging_time():
        assert abs(_of_run(folder).mean_error) < 0.02


def _of_run(folder: Path) -> ComputeMeasured:
    """Block times of a run as shares of what they should be, after the first token (its chunks warm the caches)."""
    blocks = [row for row in rows(folder, "spans") if row["kind"] == "block" and row["due_s"] > FROM_S and row["step"]]
    assert len(blocks) > 100
    return compare([(row["end_s"] - row["start_s"]) / row["due_s"] for row in blocks], 1.0)


def test_blocks_that_are_late_now_and_then_or_all_a_little_are_found_out() -> None:
    assert compare([10e-3] * 100, 10e-3).ok
    assert not compare([10e-3] * 90 + [10.6e-3] * 10, 10e-3).ok  # the 95th percentile
    assert not compare([10.25e-3] * 100, 10e-3).ok  # the mean
    assert not compare([9.7e-3] * 100, 10e-3).ok  # too fast is wrong as well


def test_operations_of_devices_that_compute_at_once_are_timed() -> None:
    speed, others = measure_speed((1, 4))
    assert [each.count for each in speed.together] == [1, 4] and 0 <= others <= 1
    for each in speed.together:
        assert list(each.finished_s) == sorted(each.finished_s) and 0 < each.finished_s[0] < each.finished_s[-1]
    with judging_time():
        assert speed.streaming_Bps > 1e8 and all(each.finished_s[-1] < 5 for each in speed.together)


def test_a_measuring_process_that_fails_is_told_and_ends_the_others() -> None:
    with pytest.raises(RunFailed, match="TypeError"):
        bench_concurrency._in_devices(2, divmod)
    assert multiprocessing.active_children() == []


def test_a_measuring_process_that_stands_still_is_no_reason_to_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_concurrency, "PATIENCE_S", 0.0)
    with pytest.raises(RunFailed, match="did not answer within 0 s"):
        bench_concurrency._measure(1)
    assert multiprocessing.active_children() == []
