"""Comparing: paired means over what all finished, their intervals, the rest counted; and the command itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from testbed.cli import run
from testbed.runlog.comparison import Least, mean_with_interval, per_policy, tidy, write_tidy
from testbed.runlog.folder import read_rows

SMALL = str(Path(__file__).parents[3] / "experiments" / "small-scale.yaml")
Captured = pytest.CaptureFixture[str]


def row(policy: str, seed: int, ms: float | None, status: str = "done", **also: Any) -> dict[str, Any]:
    return {
        "policy": policy, "backend": "sim", "seed": seed, "status": status, "mean_token_ms": ms, "tokens": [1],
        "mean_token_with_stall_ms": None if ms is None else ms + 1, "migrations": 2, "decision_ms": 3.0,
        "stall_s": 0.001, "peak_memory_bytes": {"a": 10 * seed},
    } | also  # fmt: skip


def test_a_mean_is_over_the_instances_that_all_finished_and_the_others_are_counted() -> None:
    rows = [
        row("one", 1, 10.0), row("one", 2, 20.0), row("one", 3, 99.0), row("one", 4, 98.0),
        row("two", 1, 30.0), row("two", 2, 50.0), row("two", 3, 1.0, "oom"),
        row("two", 4, None, "failed", error_kind="Infeasible"),
    ]  # fmt: skip
    one, two = per_policy(rows)
    assert (one["mean_token_ms"], two["mean_token_ms"]) == (15.0, 40.0)
    assert one["instances"] == two["instances"] == [1, 2]
    assert (two["runs"], two["oom"], two["infeasible"], two["failed"]) == (4, 1, 1, 0)
    assert two["peak_memory_bytes"] == {"a": 40} and two["ratio_to_exact"] is None


def test_a_policy_that_finished_nothing_has_no_mean_and_does_not_take_the_others() -> None:
    none, some = per_policy([row("none", 1, None, "failed"), row("some", 1, 5.0)])
    assert none["mean_token_ms"] is None and none["instances"] == [] and none["failed"] == 1
    assert some["mean_token_ms"] == 5.0 and some["ci95_token_ms"] is None


def test_the_ratio_to_exact_is_paired_and_includes_what_moving_cost() -> None:
    exact, mine = per_policy([row("exact", 1, 9.0), row("exact", 2, 19.0), row("mine", 1, 19.0), row("mine", 2, 19.0)])
    assert exact["ratio_to_exact"] == 1.0 and exact["ci95_ratio"] == [1.0, 1.0]
    assert mine["ratio_to_exact"] == pytest.approx((20 / 10 + 20 / 20) / 2)


def test_ratios_are_to_the_least_that_is_known_with_and_without_deciding() -> None:
    rows = [row("exact", 1, 9.0), row("exact", 2, 19.0), row("mine", 1, 19.0), row("mine", 2, 19.0)]
    more = {"tokens": [1, 2, 3, 4], "stall_s": 0.003}  # three decode tokens, which share 3 ms of deciding
    rows = [one | more for one in rows]
    least = {"sim": {1: Least(8.0, "optimum", 8.0), 2: Least(10.0, "bound", 12.0)}}
    exact, mine = per_policy(rows, least)
    assert exact["ratio_to_exact"] == pytest.approx((10 / 8 + 20 / 10) / 2)
    assert mine["ratio_to_exact"] == pytest.approx((20 / 8 + 20 / 10) / 2)
    assert mine["ratio_with_decisions"] == pytest.approx((21 / 8 + 21 / 10) / 2)
    assert mine["ratio_to_exact_run"] == pytest.approx((20 / 10 + 20 / 20) / 2)
    assert mine["exact_within"] == pytest.approx(0.1)
    assert mine["ci95_ratio"] is not None and mine["exact_is"] == {"optimum": 1, "bound": 1}
    assert per_policy(rows)[1]["exact_is"] == {"run": 2}
    charged = [one | {"mean_token_with_stall_ms": one["mean_token_with_stall_ms"] + 1} for one in rows]
    assert per_policy(charged, least)[1]["ratio_with_decisions"] == mine["ratio_with_decisions"], "deciding counts once"


def test_the_gap_of_first_placements_is_to_that_of_exact() -> None:
    rows = [row("exact", 1, 9.0, first_placement_ms=8.0), row("mine", 1, 19.0, first_placement_ms=10.0)]
    assert [line["first_placement_gap"] for line in per_policy(rows)] == [0.0, pytest.approx(0.25)]
    assert per_policy(rows[1:])[0]["first_placement_gap"] is None


def test_backends_are_not_mixed() -> None:
    rows = [row("one", 1, 10.0), row("one", 1, 30.0, backend="local")]
    assert [(line["backend"], line["mean_token_ms"]) for line in per_policy(rows)] == [("sim", 10.0), ("local", 30.0)]


def test_the_interval_is_the_same_every_time_and_covers_the_mean_about_19_times_in_20() -> None:
    values = [1.0, 2.0, 3.0, 10.0]
    assert mean_with_interval(values) == mean_with_interval(values)
    draw = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        _, interval = mean_with_interval(list(draw.normal(5.0, 2.0, 30)))
        assert interval is not None
        covered += interval[0] <= 5.0 <= interval[1]
    assert 0.88 <= covered / 200 <= 0.99


def test_intervals_are_paired_a_policy_twice_as_slow_has_twice_the_interval() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    (_, one), (_, two) = mean_with_interval(values), mean_with_interval([2 * value for value in values])
    assert one is not None and two == pytest.approx([2 * bound for bound in one])


def test_a_tidy_file_keeps_numbers_as_numbers_and_mixed_keys_as_text(tmp_path: Path) -> None:
    rows = [tidy(row("one", 1, 10.0)) | {"key": 4}, tidy(row("one", 2, None, "oom")) | {"key": "none"}]
    write_tidy(rows, tmp_path / "runs.parquet")
    table = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    assert [line["mean_token_ms"] for line in table] == [10.0, None]
    assert [line["key"] for line in table] == ["4", "none"]
    assert [line["peak_memory_bytes"] for line in table] == [10, 20]
    assert list(tmp_path.iterdir()) == [tmp_path / "runs.parquet"]


def test_compare_gives_rows_and_a_table_over_paired_instances(tmp_path: Path, capsys: Captured) -> None:
    command = ["compare", SMALL, "--backend", "sim", "--policy", "static", "--policy", "round-robin", "--seeds", "3"]
    assert run([*command, "--tokens", "16", "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"rows", "table"}
    assert [(line["policy"], line["seed"]) for line in document["rows"]] == [
        (policy, seed) for policy in ("static", "round-robin") for seed in (1, 2, 3)
    ]
    manifests = [json.loads((Path(line["path"]) / "manifest.json").read_text()) for line in document["rows"]]
    networks = [manifest["experiment"]["topology"] for manifest in manifests]
    assert networks[:3] == networks[3:] and networks[0] != networks[1]
    for line in document["table"]:
        assert line["runs"] == 3 and line["instances"] == [1, 2, 3]
        low, high = line["ci95_token_ms"]
        assert low <= line["mean_token_ms"] <= high
    (parquet,) = tmp_path.glob("*-compare.parquet")
    assert len(pq.read_table(parquet)) == 6
    assert run([*command, "--tokens", "16", "--out", str(tmp_path)]) == 0
    assert "3 of 3" in capsys.readouterr().out


def test_a_class_of_placements_for_exact_is_chosen_on_the_command_line(tmp_path: Path, capsys: Captured) -> None:
    command = [SMALL, "--backend", "sim", "--tokens", "8", "--out", str(tmp_path), "--json"]
    command += ["--set", "topology={generate: paper, devices: 3, memory: 4 x model}"]
    for written in ("policy_options={class: single}", "policy_options.class=single"):
        assert run(["replay", *command, "--policy", "exact", "--set", written]) == 0
        folder = Path(json.loads(capsys.readouterr().out)["path"])
        placed = {row["device"] for row in read_rows(folder, "placements")}
        assert len(placed) == 1
    both = ["compare", *command, "--policy", "round-robin", "--policy", "exact", "--set"]
    assert run([*both, "policy_options={class: single}"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    manifests = [json.loads((Path(row["path"]) / "manifest.json").read_text()) for row in rows]
    assert [manifest["experiment"]["policy_options"] for manifest in manifests] == [{}, {"class": "single"}]
    assert run([*both, "policy_options={sort: single}"]) == 2
    assert "none of the policies round-robin, exact has an option 'sort'" in capsys.readouterr().err


def test_an_instance_that_nothing_can_fit_is_counted_unless_none_can(tmp_path: Path, capsys: Captured) -> None:
    command = ["compare", SMALL, "--backend", "sim", "--policy", "static", "--tokens", "8", "--json"]
    command += ["--out", str(tmp_path), "--seeds", "6", "--set"]
    squeezed = "{generate: fluctuation, target: device/*, quantity: memory, spread: 1, least: %s, most: %s}"
    assert run([*command, f"traces=[{squeezed % (0.1, 1)}]"]) == 0
    document = json.loads(capsys.readouterr().out)
    impossible = [line for line in document["rows"] if line["error_kind"] == "Infeasible"]
    assert 0 < len(impossible) < 6 and all("no placement can fit" in line["error"] for line in impossible)
    (table,) = document["table"]
    assert (table["runs"], table["infeasible"], len(table["instances"])) == (6, len(impossible), 6 - len(impossible))
    assert run([*command, f"traces=[{squeezed % (0.1, 0.1)}]"]) == 2
    assert "no placement can fit" in capsys.readouterr().err
