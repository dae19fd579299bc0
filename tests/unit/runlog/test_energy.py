"""The energy of a run is each device's power times its busy and idle seconds, simulated or from spans."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from simulated import experiment, simulated

from testbed.cli.summary import headings_of, told_energy
from testbed.device_model import PLAIN, DeviceModel
from testbed.runlog.comparison import per_policy, tidy
from testbed.runlog.energy import busy_seconds, energy
from testbed.runlog.folder import read_manifest, read_rows
from testbed.running.explain import explain
from testbed.running.modelled_spans import SimulatedTokens
from testbed.running.replay import replay_once

MODEL = DeviceModel(idle_watts=3.0, busy_watts=12.0)
POWERED = [
    f"topology.devices.{name}.{key}={watts} W"
    for name, idle in (("a", 2), ("b", 3), ("c", 0), ("d", 1))
    for key, watts in (("idle_power", idle), ("busy_power", 10 * idle + 5))
]
TOGETHER = {"ffn_shards": 4, "proj_rows": True, "exchange": "all-to-all"}


def test_a_device_takes_its_busy_power_while_it_computes_and_its_idle_power_else() -> None:
    found = energy({"a": MODEL, "b": MODEL}, {"a": 2.0}, 10.0, 4)
    assert found["energy"]["a"] == {"busy_s": 2.0, "idle_s": 8.0, "joules": 48.0}
    assert found["energy"]["b"] == {"busy_s": 0.0, "idle_s": 10.0, "joules": 30.0}
    assert found["joules"] == 78.0 and found["joules_per_token"] == 19.5


def test_the_sum_is_not_known_unless_every_power_is() -> None:
    some = energy({"a": MODEL, "b": PLAIN}, {"a": 1.0}, 1.0, 1)
    assert set(some["energy"]) == {"a"} and some["joules"] is some["joules_per_token"] is None
    assert energy({"b": PLAIN}, {"b": 1.0}, 1.0, 1) == {"energy": None, "joules": None, "joules_per_token": None}
    assert energy({"a": MODEL}, {}, 0.0, 0)["joules_per_token"] is None


def test_an_operation_that_the_host_finished_late_counts_as_it_was_due() -> None:
    base = {"kind": "block", "device": "a", "start_s": 1.0, "end_s": 3.0}
    spans: list[dict[str, Any]] = [
        base, base | {"overrun": True, "due_s": 0.5}, base | {"overrun": True, "due_s": None}, base | {"device": "b"},
        base | {"kind": "transfer"},
    ]  # fmt: skip
    assert busy_seconds(spans) == {"a": 4.5, "b": 2.0}


@pytest.mark.parametrize(
    "keys",
    [
        {"policy": "paper-search"},
        {"policy": "tensor-parallel", "partition": TOGETHER},
        {"policy": "round-robin", "partition": {"ffn_shards": 4, "vocab_shards": 4}},
    ],
)
def test_a_simulated_device_is_busy_for_its_modelled_operations(tmp_path: Path, keys: dict[str, Any]) -> None:
    summary = replay_once(experiment("tokens=20", *POWERED, changes=(), **keys), "sim", tmp_path)
    folder = Path(summary["path"])
    busy: dict[str, float] = defaultdict(float)
    for span in SimulatedTokens.of(folder, read_manifest(folder)).spans(read_rows(folder, "tokens")):
        if span["kind"] == "block":
            busy[span["device"]] += span["end_s"] - span["start_s"]
    for name, row in summary["energy"].items():
        assert row["busy_s"] == pytest.approx(busy[name], rel=1e-9, abs=1e-12)
        assert row["busy_s"] + row["idle_s"] == pytest.approx(summary["total_s"])
    assert summary["joules"] == pytest.approx(sum(row["joules"] for row in summary["energy"].values()))
    assert explain(folder)["energy"]["joules"] == summary["joules"]


def test_runs_and_policies_are_compared_by_energy_only_where_it_is_known(tmp_path: Path) -> None:
    powered, _ = simulated(tmp_path, experiment("tokens=4", *POWERED, changes=()))
    plain, _ = simulated(tmp_path, experiment("tokens=4", changes=()))
    assert plain["energy"] is plain["joules"] is None
    assert [line["joules_per_token"] for line in per_policy([powered])] == [powered["joules_per_token"]]
    assert [line["joules_per_token"] for line in per_policy([plain])] == [None]
    assert tidy(powered)["joules"] == powered["joules"]
    assert "joules_per_token" in headings_of([plain, powered]) and "joules_per_token" not in headings_of([plain])
    told = told_energy(powered)
    assert told.startswith(f"Energy: {powered['joules']:.4g} J") and "d " in told
