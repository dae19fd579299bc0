"""The export of a run as trace events, read back: it keeps the format's rules and holds what the tables hold."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from simulated import experiment
from synthetic_run import make_run
from trace_event_rules import broken_rules

from testbed.analysis.trace_events import write_trace
from testbed.cli import run
from testbed.errors import ConfigError
from testbed.runlog.folder import RunLog, read_rows
from testbed.running.export import export_trace
from testbed.running.replay import replay_once


def read_back(folder: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    write_trace(folder, out, **options)
    document = json.loads(out.read_text())
    assert broken_rules(document) == []
    return list(document["traceEvents"])


def busy(events: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of the blocks of each device."""
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    found: dict[str, float] = defaultdict(float)
    for event in events:
        if event["ph"] == "X" and event["cat"] == "block":
            found[names[event["pid"]].removeprefix("device ")] += event["dur"] / 1e6
    return found


def of(events: list[dict[str, Any]], category: str, phase: str = "X") -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == phase and event["cat"] == category]


@pytest.mark.parametrize("finished", [True, False])
def test_the_file_keeps_the_rules_and_devices_are_busy_as_in_the_table(tmp_path: Path, finished: bool) -> None:
    folder = make_run(tmp_path / "runs", finished=finished)
    events = read_back(folder, tmp_path / "trace.json")
    wanted: dict[str, float] = defaultdict(float)
    for row in read_rows(folder, "spans"):
        if row["kind"] == "block":
            wanted[row["device"]] += row["end_s"] - row["start_s"]
    assert wanted and busy(events) == pytest.approx(wanted, abs=1e-6)


def test_migrations_decisions_trace_steps_and_memory_are_there(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs")
    events = read_back(folder, tmp_path / "trace.json")
    rows = {table: read_rows(folder, table) for table in ("migrations", "decisions", "tokens", "spans")}
    messages = [row for row in rows["spans"] if row["kind"] == "transfer"]
    assert len(of(events, "migration", "s")) == len(of(events, "migration", "f")) == len(rows["migrations"])
    assert len(of(events, "message", "s")) == len(messages)
    assert len(of(events, "decision", "i")) == len(rows["decisions"])
    assert len(of(events, "token")) == len(rows["tokens"])
    assert any(event["name"].startswith("trace_applied: link/b") for event in of(events, "trace step", "i"))
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert {"link b up (Mbit/s)", "memory of c (MiB)"} <= counters


def test_messages_that_overlap_take_lanes(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path, "lanes", "static")
    log.row("tokens", step=0, epoch=0, prefill=True, start_s=0.0, latency_s=1.0)
    for peer, start, end in (("b", 0.0, 0.4), ("c", 0.1, 0.3), ("b", 0.4, 0.5)):
        log.row("spans", step=0, kind="transfer", block="x(0)", device="a", peer=peer, start_s=start, end_s=end)
    log.close()
    events = read_back(log.folder, tmp_path / "trace.json")
    names = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert [name for name in names if name.startswith("sends")] == ["sends (up)", "sends (up) (2)"]


def test_only_some_tokens_can_be_written(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs")
    events = read_back(folder, tmp_path / "trace.json", first=40, last=47)
    assert [event["name"] for event in of(events, "token")] == [f"token {step}" for step in range(40, 48)]
    assert {event["args"]["token"] for event in of(events, "block")} == set(range(40, 48))


def test_a_simulated_run_has_the_operations_that_the_cost_model_adds_up(tmp_path: Path) -> None:
    of_run = experiment("tokens=20", policy="round-robin")
    folder = Path(replay_once(of_run, "sim", tmp_path / "runs")["path"])
    counts = export_trace(folder, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())
    assert broken_rules(events) == []
    assert counts["token"] == 20 and counts["block"] > 1000 and counts["message"] > 100
    ends = [event["ts"] + event["dur"] for event in of(events["traceEvents"], "block") if event["name"] == "lm_head"]
    tokens = read_rows(folder, "tokens")
    assert sorted(ends) == pytest.approx([1e6 * (row["start_s"] + row["latency_s"]) for row in tokens], abs=0.01)


def test_tokens_that_the_run_does_not_have_are_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs")
    with pytest.raises(ConfigError, match="has no token from 200 to 300"):
        export_trace(folder, tmp_path / "trace.json", 200, 300)


def test_the_verb_writes_the_file_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = make_run(tmp_path / "runs"), tmp_path / "new" / "trace.json"
    assert run(["export", str(folder), "--perfetto", "--out", str(out), "--token", "8-15"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{out}: 8 tokens, ") and "1 decision" in told
    assert run(["export", str(folder), "--token", "9-8"]) == 2
    assert "such as 40-56" in capsys.readouterr().err
