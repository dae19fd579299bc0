"""`--backend sim` from the command line: the same folder, the same verbs over it, and no claim to have measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import run
from testbed.cli.plot import MOST_EACH
from testbed.runlog.tables import TABLES

QUICKSTART = str(Path(__file__).parents[3] / "experiments" / "gpt2-star4.yaml")
Captured = pytest.CaptureFixture[str]


def replay(capsys: Captured, out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run(["replay", QUICKSTART, "--backend", "sim", "--out", str(out), "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def refused(capsys: Captured, *arguments: str) -> str:
    assert run(["replay", QUICKSTART, "--backend", "sim", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("Error: ") and told.err.count("\n") == 1
    return told.err


def test_replay_leaves_a_run_folder_and_prints_its_summary(tmp_path: Path, capsys: Captured) -> None:
    code, summary = replay(capsys, tmp_path, "--tokens", "16")
    assert (code, summary["status"], summary["provenance"], len(summary["tokens"])) == (0, "done", "simulated", 16)
    folder = Path(summary["path"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["backend"] == "sim" and manifest["facts"]["provenance"] == "simulated"
    assert manifest["calibration"]["hop_overhead_s"] == 1e-4
    assert [path.name for path in folder.glob("*.jsonl")] == ["events.jsonl"]
    assert {path.stem for path in folder.glob("*.parquet")} == set(TABLES)


def test_a_run_out_of_memory_is_exit_code_5(tmp_path: Path, capsys: Captured) -> None:
    assert run(["replay", QUICKSTART, "--backend", "sim", "--out", str(tmp_path), "--policy", "static", "--json"]) == 5
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "oom"
    assert "device b ran out of memory at token 48" in captured.err and captured.err.count("\n") == 1


def test_what_needs_real_devices_is_refused_in_one_sentence(tmp_path: Path, capsys: Captured) -> None:
    assert "--verify needs logits" in refused(capsys, "--verify")
    assert "--hold keeps a network up" in refused(capsys, "--hold")
    assert "compute: native" in refused(capsys, "--set", "compute=native")


def test_policies_that_think_in_hubs_are_refused_with_an_all_to_all_exchange(tmp_path: Path, capsys: Captured) -> None:
    together = ["--set", "partition={ffn_shards: 4, proj_rows: true, exchange: all-to-all}"]
    for name in ("headroom", "layerwise", "static"):
        told = refused(capsys, *together, "--policy", name)
        assert f"policy {name} " in told and "partition.exchange" in told and "tensor-parallel" in told
    assert "proj_rows" in refused(capsys, "--set", "partition.exchange=all-to-all")
    code, summary = replay(capsys, tmp_path, *together, "--policy", "tensor-parallel", "--tokens", "16")
    assert (code, summary["status"]) == (0, "done")


def test_compare_plot_report_and_runs_take_simulated_runs_and_say_what_they_are(
    tmp_path: Path, capsys: Captured
) -> None:
    policies = ["--policy", "static", "--policy", "paper-search"]
    compare = ["compare", QUICKSTART, "--backend", "sim", "--out", str(tmp_path / "runs")]
    assert run([*compare, *policies, "--json"]) == 0
    table = {row["policy"]: row for row in json.loads(capsys.readouterr().out)["table"]}
    assert table["static"]["oom"] == 1 and table["paper-search"]["mean_token_ms"] > 0
    assert run([*compare, "--policy", "round-robin", "--tokens", "16"]) == 0
    assert "simulated" in capsys.readouterr().out
    assert run(["runs", str(tmp_path / "runs"), "--json"]) == 0
    assert {row["backend"] for row in json.loads(capsys.readouterr().out)} == {"sim"}
    assert run(["report", str(tmp_path / "runs")]) == 0
    page = capsys.readouterr().out
    assert page.count("| simulated |") == 3 and "nothing was measured" in page
    assert run(["plot", str(tmp_path / "runs"), "--out", str(tmp_path / "figures"), "--no-each", "--json"]) == 0
    assert all(Path(path).stat().st_size for path in json.loads(capsys.readouterr().out)["figures"])


def test_of_many_runs_only_the_figures_that_compare_them_are_drawn(tmp_path: Path, capsys: Captured) -> None:
    _, summary = replay(capsys, tmp_path, "--tokens", "8")
    for number in range(MOST_EACH + 1):
        shutil.copytree(summary["path"], tmp_path / "many" / f"{number}")
    assert run(["plot", str(tmp_path / "many"), "--out", str(tmp_path / "figures"), "--json"]) == 0
    told = capsys.readouterr()
    names = [Path(path).name for path in json.loads(told.out)["figures"]]
    assert names == ["token_latency.png", "latency_ecdf.png", "predicted_vs_measured.png"]
    assert told.err == "These figures compare the 9 runs; --each draws those of each run too.\n"


def test_nothing_is_left_behind_outside_the_run_folder(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_RUNTIME_DIR", str(tmp_path / "rt"))
    replay(capsys, tmp_path / "runs", "--tokens", "8")
    assert not (tmp_path / "rt").exists()
