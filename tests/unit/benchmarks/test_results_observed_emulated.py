"""What is emulated with the oracle and measured: all policies and bundled traces. Every kill and verdict is told."""

from __future__ import annotations

import pandas as pd

from benchmarks.results import observed_emulated
from benchmarks.results.running import part_key
from benchmarks.results.store import ROOT


def test_every_policy_is_emulated_under_every_bundled_trace_with_the_oracle_and_without() -> None:
    runs = observed_emulated.planned()
    assert len({part_key(one) for one in runs}) == len(runs)
    assert {one.said["trace"] for one in runs} == {file.stem for file in (ROOT / "traces" / "data").glob("*.csv")}
    assert len(runs) == 2 * len(observed_emulated.POLICIES) * len(observed_emulated.TRACES)


def test_the_first_change_of_each_trace_comes_when_two_decisions_are_made() -> None:
    for one in observed_emulated.planned():
        loaded = one.load()
        changes = loaded.traces.changes_between(0.0, float(loaded.tokens))
        assert changes
        if one.said["trace"] not in ("outage", "cellular-walk"):
            assert changes[0].time_s == 2 * loaded.interval


def test_the_section_tells_kills_and_what_was_not_faithful() -> None:
    row = {
        "trace": "board-squeeze", "policy": "static", "shown": "oracle", "seed": 1, "status": "oom", "tokens_done": 16,
        "mean_token_with_stall_ms": 240.0, "migrations": 0, "verdict_ok": True, "verdict_reasons": "",
        "twin_status": "oom", "twin_tokens_done": 16, "twin_mean_token_with_stall_ms": 238.0, "twin_migrations": 0,
    }  # fmt: skip
    moved = row | {
        "trace": "link-collapse", "policy": "headroom", "status": "done", "twin_status": "done", "tokens_done": 40,
        "mean_token_with_stall_ms": 252.4, "twin_mean_token_with_stall_ms": 240.0, "migrations": 5,
        "twin_migrations": 4,
        "verdict_ok": False, "verdict_reasons": "a busy host",
    }  # fmt: skip
    failed = row | {"policy": "greedy", "status": "failed", "verdict_ok": None, "verdict_reasons": None}
    how = {
        "kind": "emulated", "command": "c", "date": "d", "commit": "x", "seconds": 60.0, "machine": "m", "notes": [],
    }  # fmt: skip
    text = observed_emulated.section(pd.DataFrame([row, moved, failed]), how)
    assert "| board-squeeze | static | oracle | - | - | - | killed at 16, killed at 16 | 0, 0 | yes |" in text
    assert "| link-collapse | headroom | oracle | 252.4 | 240.0 | +5.2 % | done, done | 5, 4 | no |" in text
    assert "- link-collapse, headroom, oracle: a busy host" in text and "1 of 3 runs were faithful" in text
