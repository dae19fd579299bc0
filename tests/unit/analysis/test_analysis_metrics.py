from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import make_run

from testbed import analysis
from testbed.analysis.metrics import metrics
from testbed.analysis.report import report
from testbed.runlog.summary import percentile, stall_seconds, summarise


def token(step: int, latency_s: float, predicted_s: float | None = None) -> dict[str, object]:
    return {
        "step": step,
        "prefill": step == 0,
        "latency_s": latency_s,
        "predicted_s": predicted_s,
        "wire_bytes": 10,
    }


def test_the_prefill_counts_as_time_to_first_token_and_nowhere_else() -> None:
    found = summarise([token(0, 2.0), token(1, 0.1, 0.09), token(2, 0.3, 0.3)])
    assert found["ttft_ms"] == 2000
    assert found["mean_token_ms"] == found["token_latency_ms"]["mean"] == pytest.approx(200)
    assert found["prediction_error"] == pytest.approx(0.05)  # median of 0.1 and 0
    assert found["predicted_ms"]["mean"] == pytest.approx(195)
    assert found["total_s"] == pytest.approx(2.4)
    assert found["wire_bytes"] == 30


def test_a_run_without_tokens_has_no_latency_rather_than_zero() -> None:
    found = summarise([])
    assert found["mean_token_ms"] is found["ttft_ms"] is found["prediction_error"] is None
    assert found["token_latency_ms"] == {"mean": None, "p50": None, "p95": None, "p99": None}
    assert found["migrations"] == found["stall_s"] == 0


def test_tokens_before_the_second_decision_are_those_of_the_first_placement() -> None:
    decisions = [{"step": step, "decision_s": 0.0, "stall_s": 0.0} for step in (0, 2)]
    found = summarise([token(0, 2.0), token(1, 0.1), token(2, 0.3)], decisions=decisions)
    assert found["first_placement_ms"] == pytest.approx(100)
    assert summarise([token(0, 2.0), token(1, 0.1)])["first_placement_ms"] == pytest.approx(100)


def test_aborted_migrations_stall_but_are_not_counted_as_moved() -> None:
    def moved(start: float, end: float | None, outcome: str) -> dict[str, object]:
        return {"start_s": start, "last_byte_s": end, "outcome": outcome, "bytes": 100}

    rows = [
        moved(1.0, 2.0, "committed"),
        moved(1.5, 2.5, "committed"),
        moved(4.0, 4.5, "aborted"),
        moved(5, None, "aborted"),
    ]
    found = summarise([token(0, 1.0), token(1, 0.5)], rows)
    assert (found["migrations"], found["migrated_bytes"]) == (2, 200)
    assert found["stall_s"] == pytest.approx(2.0)  # 1.0 to 2.5 and 4.0 to 4.5
    assert found["mean_token_with_stall_ms"] == pytest.approx(2500)


def test_deciding_is_reported_and_charged_only_on_request() -> None:
    rows = [{"step": 0, "decision_s": 0.25, "stall_s": 1.0}, {"step": 0, "decision_s": 0.5, "stall_s": None}]
    free, charged = (summarise([token(0, 1.0)], (), rows, charge_decision=charge) for charge in (False, True))
    assert free["decision_ms"] == charged["decision_ms"] == 750
    assert free["total_s"] == 2.0 and charged["total_s"] == 2.75


def test_a_token_after_a_migration_waits_for_it_as_the_reader_of_the_text_does() -> None:
    rows = [{"step": 0, "decision_s": 9.0, "stall_s": 0.0}, {"step": 2, "decision_s": 0.5, "stall_s": 1.0}]
    tokens = [token(0, 2.0), token(1, 0.1), token(2, 0.1), token(3, 0.1)]
    found = summarise(tokens, (), rows)
    assert found["tpot_ms"]["mean"] == pytest.approx(1300 / 3) and found["tpot_ms"]["p50"] == pytest.approx(100)
    assert found["tpot_without_stalls_ms"] == found["token_latency_ms"]
    assert found["tokens_per_s"] == pytest.approx(4 / 3.3)
    assert summarise(tokens, (), rows, charge_decision=True)["tpot_ms"]["mean"] == pytest.approx(1800 / 3)
    assert summarise([])["tokens_per_s"] is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_overlapping_transfers_stall_once(spans: list[tuple[int, int]]) -> None:
    rows = [{"start_s": start, "last_byte_s": start + length} for start, length in spans]
    busy = {tick for start, length in spans for tick in range(start, start + length)}
    assert stall_seconds(rows, []) == len(busy)


@pytest.mark.parametrize("policy", ["static", "resource-aware"])
def test_the_figures_of_a_run_are_those_of_its_summary(tmp_path: Path, policy: str) -> None:
    run = analysis.load(make_run(tmp_path, policy))
    assert run.summary is not None
    said, found = run.summary, metrics(run)
    for key in ("ttft_ms", "stall_s", "decision_ms", "migrations", "migrated_bytes", "wire_bytes", "prediction_error"):
        assert found[key] == said[key], key
    assert {name: found[f"{name}_ms"] for name in said["token_latency_ms"]} == said["token_latency_ms"]
    assert found["mean_token_with_stall_ms"] == said["mean_token_with_stall_ms"]
    assert found["peak_memory_bytes"] == max(said["peak_memory_bytes"].values())
    assert 0.9 < found["achieved_share"] < 0.957
    assert said["overruns"] == int(run.spans["overrun"].sum()) == 1
    charged = replace(run, manifest={**run.manifest, "experiment": {"charge_decision": True}})
    assert metrics(charged)["mean_token_with_stall_ms"] > found["mean_token_with_stall_ms"]


def test_a_report_has_a_row_per_run_and_says_where_the_numbers_come_from(tmp_path: Path) -> None:
    runs = [analysis.load(make_run(tmp_path, policy)) for policy in ("static", "resource-aware")]
    runs.append(analysis.load(make_run(tmp_path, "greedy", finished=False)))
    text = report(runs)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert len({line.count("|") for line in rows}) == 1
    assert "| static | oom | 48 of 96 |" in text
    assert "backend mininet" in text and "seed 1" in text and "system Linux-6.1.0" in text
    assert "greedy: the run did not come to its end" in text


def test_a_report_gives_the_reasons_why_a_run_was_not_faithful(tmp_path: Path) -> None:
    run = analysis.load(make_run(tmp_path, tokens=9))
    assert run.summary is not None
    run.summary["verdict"].update(ok=False, reasons=["12 % of operations overran"])  # type: ignore[index]
    text = report(run)
    assert "| not faithful |" in text and "resource-aware: 12 % of operations overran" in text
