"""The reading verbs, as a user calls them: what they print, and what they say when they cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import make_run

from testbed.cli import run
from testbed.cli.show import print_json
from testbed.placement.policies import POLICIES
from testbed.runlog.folder import RunLog
from testbed.topologies.model import list_bundled
from testbed.traces.bundled import RECIPES
from testbed.traces.generate import GENERATORS
from testbed.traces.model import Trace

Captured = pytest.CaptureFixture[str]


def printed_json(capsys: Captured, *arguments: str) -> Any:
    assert run(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Captured, *arguments: str) -> str:
    assert run(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["traces"],
        ["traces", "list"],
        ["traces", "show"],
        ["traces", "import"],
        ["traces", "generate"],
        ["topologies"],
        ["topologies", "list"],
        ["topologies", "show"],
        ["policies"],
        ["runs"],
        ["plot"],
        ["report"],
    ],
    ids=" ".join,
)
def test_every_verb_has_help_with_an_example(arguments: list[str], capsys: Captured) -> None:
    assert run([*arguments, "--help"]) == 0
    assert f"Example: testbed {arguments[0]}" in capsys.readouterr().out


def test_json_has_numbers_where_the_library_has_them_and_null_for_what_is_unknown(capsys: Captured) -> None:
    print_json({"moved": np.int64(3), "error": float("nan"), "path": Path("runs"), "ok": np.True_, "rows": (1, 2.5)})
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"moved": 3, "error": None, "path": "runs", "ok": True, "rows": [1, 2.5]}


# --- topologies ---


def test_topologies_list_gives_the_bundled_ones(capsys: Captured) -> None:
    rows = printed_json(capsys, "topologies", "list", "--json")
    assert [row["name"] for row in rows] == [row["name"] for row in list_bundled()]
    assert run(["topologies", "list"]) == 0
    table = capsys.readouterr().out
    assert all(row["name"] in table and row["path"] in table for row in rows)


def test_topologies_show_reads_a_file(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text(
        "source: a\n"
        "devices:\n"
        "  a: {streaming: 3 GB/s, compute: 12 GFLOP/s, memory: 256 MiB, storage: 90 MB/s,"
        " link: {rate: 100 Mbit/s, delay: 0.3 ms}}\n"
        "  b: {streaming: 1 GB/s, compute: 2 GFLOP/s, memory: 64 MiB, storage: 10 MB/s,"
        " link: {up: 20 Mbit/s, down: 50 Mbit/s, delay_up: 1 ms, delay_down: 2 ms}}\n"
    )
    shown = printed_json(capsys, "topologies", "show", str(path), "--json")
    assert [device["up_bps"] for device in shown["devices"]] == [100e6, 20e6]
    assert run(["topologies", "show", str(path)]) == 0
    table = capsys.readouterr().out
    assert "a (source)" in table
    assert "1 ms up, 2 ms down" in table
    assert "in all 320 MiB" in table


# --- traces ---


def test_traces_list_gives_the_bundled_ones_with_their_targets(capsys: Captured) -> None:
    rows = printed_json(capsys, "traces", "list", "--json")
    assert [row["name"] for row in rows] == list(RECIPES)
    assert all(row["targets"] and Path(row["path"]).is_file() for row in rows)


def test_traces_show_prints_values_with_their_units(capsys: Captured) -> None:
    assert run(["traces", "show", "outage"]) == 0
    table = capsys.readouterr().out
    assert "link/b" in table and "0 bit/s" in table and "50 Mbit/s" in table
    shown = printed_json(capsys, "traces", "show", "outage", "--json")
    assert {series["quantity"]: series["min"] for series in shown["series"]} == {"up": 0, "down": 0}


def test_traces_import_writes_a_native_file_that_reads_back_the_same(tmp_path: Path, capsys: Captured) -> None:
    recorded, native = tmp_path / "walk.up.mahimahi", tmp_path / "walk.csv"
    recorded.write_text("".join(f"{stamp}\n" for stamp in range(1, 3001, 3)))
    options = ["--target", "link/b", "--direction", "up"]
    assert run(["traces", "import", str(recorded), "--out", str(native), *options]) == 0
    assert str(native) in capsys.readouterr().out
    assert Trace.load(native) == Trace.load(recorded, target="link/b", direction="up")


@pytest.mark.parametrize(("window", "rows"), [("500 ms", 6), ("0.5", 6), ("1 s", 3), ("0.025 min", 2)])
def test_the_window_of_a_recorded_trace_is_a_duration_or_seconds(
    window: str, rows: int, tmp_path: Path, capsys: Captured
) -> None:
    recorded = tmp_path / "walk.mahimahi"
    recorded.write_text("".join(f"{stamp}\n" for stamp in range(1, 3001, 3)))
    options = ["--target", "link/b", "--direction", "up"]
    (series,) = printed_json(capsys, "traces", "show", str(recorded), *options, "--bin", window, "--json")["series"]
    assert series["count"] == rows
    sentence = refused(capsys, "traces", "show", str(recorded), *options, "--bin", "wide")
    assert "--bin" in sentence and "'wide'" in sentence


def test_an_options_variable_is_named_after_the_option_as_it_is_written(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_TRACES_SHOW_JSON", "1")
    monkeypatch.setenv("TESTBED_TRACES_SHOW_FORMAT", "native")
    assert printed_json(capsys, "traces", "show", "outage")["series"]


def test_traces_import_says_what_a_recorded_trace_needs(tmp_path: Path, capsys: Captured) -> None:
    recorded = tmp_path / "walk.mahimahi"
    recorded.write_text("1\n5\n")
    assert "target" in refused(capsys, "traces", "import", str(recorded), "--out", str(tmp_path / "walk.csv"))
    assert not (tmp_path / "walk.csv").exists()


def test_traces_generate_prints_what_it_would_write(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "outage.csv"
    arguments = ["traces", "generate", "outage", "--target", "link/b", "--set", "at=5", "--set", "rate=20 Mbit/s"]
    assert run(arguments) == 0
    text = capsys.readouterr().out
    assert run([*arguments, "--out", str(out)]) == 0
    assert out.read_text() == text
    assert "5,link/b,rate,0 bit/s" in text


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_traces_generate_repeats_itself_for_the_same_seed(kind: str, capsys: Captured) -> None:
    target = "device/b" if kind in ("memory-squeeze", "cpu-contention") else "link/b"
    arguments = ["traces", "generate", kind, "--target", target, "--seed", "5", "--json"]
    assert printed_json(capsys, *arguments) == printed_json(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["import", "no-such.csv", "--out", "x.csv"], "no-such.csv"),
        (["generate", "flood", "--target", "link/b"], "flood"),
        (["generate", "outage", "--target", "link/b", "--set", "at"], "'at'"),
        (["generate", "outage", "--target", "link/b", "--set", "depth=3"], "depth"),
        (["generate", "outage", "--target", "links/b"], "links/b"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_traces_refuses_in_one_sentence_that_names_the_fault(
    arguments: list[str], named: str, capsys: Captured
) -> None:
    assert named in refused(capsys, "traces", *arguments)


# --- policies ---


def test_policies_lists_each_with_a_line(capsys: Captured) -> None:
    rows = printed_json(capsys, "policies", "--json")
    assert {"static", "round-robin", "greedy", "paper-search"} <= {row["name"] for row in rows}
    assert {row["name"]: row["description"] for row in rows} == {
        name: listed.description for name, listed in POLICIES.items()
    }
    assert "deadline" in next(row["options"] for row in rows if row["name"] == "paper-search")


# --- runs ---


def token(step: int) -> dict[str, Any]:
    return {"step": step, "token_id": 7, "epoch": 0, "prefill": step == 0, "start_s": float(step), "latency_s": 0.05}


def test_runs_lists_finished_unfinished_and_nested_ones(tmp_path: Path, capsys: Captured) -> None:
    done = RunLog.create(tmp_path, "quickstart", "greedy")
    done.rows("tokens", [token(step) for step in range(3)])
    done.finish(
        {
            "status": "done",
            "policy": "greedy",
            "backend": "local",
            "tokens": [7, 7, 7],
            "mean_token_ms": 50.0,
            "migrations": 2,
            "verdict": {"ok": True, "reasons": []},
        }
    )
    cut_short = RunLog.create(tmp_path / "comparison", "quickstart", "static")
    cut_short.rows("tokens", [token(step) for step in range(2)])
    cut_short.close()
    (tmp_path / "comparison" / "figures").mkdir()
    rows = {row["policy"]: row for row in printed_json(capsys, "runs", str(tmp_path), "--json")}
    assert rows["greedy"]["status"] == "done"
    assert rows["greedy"]["tokens"] == 3
    assert rows["greedy"]["mean_token_ms"] == 50.0
    assert rows["greedy"]["verdict_ok"] is True
    assert rows["static"]["status"] == "unfinished"
    assert rows["static"]["tokens"] == 2
    assert rows["static"]["name"].startswith("comparison/")
    assert run(["runs", str(tmp_path)]) == 0
    assert "unfinished" in capsys.readouterr().out


def test_runs_is_content_with_no_runs_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed_json(capsys, "runs", "--json") == []
    assert "no-such" in refused(capsys, "runs", "no-such")


# --- plot and report ---


@pytest.mark.parametrize("verb", ["plot", "report"])
def test_plot_and_report_refuse_what_is_no_run(verb: str, tmp_path: Path, capsys: Captured) -> None:
    assert str(tmp_path) in refused(capsys, verb, str(tmp_path))


def test_plot_writes_the_figures_of_a_folder_of_runs_and_prints_where_they_are(
    tmp_path: Path, capsys: Captured
) -> None:
    make_run(tmp_path / "runs", "static")
    arguments = ["plot", str(tmp_path / "runs"), "--out", str(tmp_path / "figures"), "--json"]
    paths = printed_json(capsys, *arguments)["figures"]
    assert len(paths) == 3 + 3  # three compare runs, three show each of them
    assert all(Path(path).parent == tmp_path / "figures" for path in paths)
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in paths)
    only = printed_json(capsys, *arguments, "--no-each", "--figure", "latency_ecdf", "--figure", "memory")["figures"]
    assert [Path(path).name for path in only] == ["latency_ecdf.png"]
    only = printed_json(capsys, *arguments, "--figure", "memory", "--format", "svg")["figures"]
    assert [Path(path).suffix for path in only] == [".svg"]


def test_report_prints_or_writes_the_same_page(tmp_path: Path, capsys: Captured) -> None:
    folder = str(make_run(tmp_path, "static", tokens=24))
    assert run(["report", folder]) == 0
    page = capsys.readouterr().out
    assert "| static |" in page
    assert run(["report", folder, "--out", str(tmp_path / "report.md")]) == 0
    assert (tmp_path / "report.md").read_text() == page
    capsys.readouterr()
    document = printed_json(capsys, "report", folder, "--json")
    assert document["report"] == page
    assert document["rows"][0]["policy"] == "static"
    file = str(tmp_path / "report.md")
    assert f"{file}: no folder can be made there" in refused(capsys, "report", folder, "--out", f"{file}/report.md")
