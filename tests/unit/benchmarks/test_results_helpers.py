"""What the results are made with: pairing, the parts of a prediction, and collecting that can be interrupted."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.results import running
from benchmarks.results.attribution import predicted_parts
from benchmarks.results.paired import ratio
from benchmarks.results.running import Planned, collect_runs, found_rows, missing, run
from benchmarks.results.store import Parts
from testbed import analysis

TINY = {"model.preset": "tiny", "tokens": 12, "interval": 4}


def planned(policy: str, seed: int = 1, **settings: object) -> Planned:
    return Planned("gpt2-star4.yaml", policy, seed, {**TINY, **settings}, {"case": "tiny"}, 2e-4)


@pytest.mark.parametrize("partition", [{"ffn_shards": 1}, {"ffn_shards": 4, "proj_rows": True}])
def test_the_parts_of_a_prediction_add_up_to_it_also_where_links_change(partition: object, tmp_path: Path) -> None:
    traces = [{"generate": "fluctuation", "target": "link/*", "step": 4}]
    row = run(planned("round-robin", traces=traces, partition=partition), "sim", tmp_path)
    parts = predicted_parts(tmp_path / row["run"])
    predicted = analysis.load(tmp_path / row["run"]).decoded.set_index("step")["predicted_s"]
    assert list(parts) == list(predicted.index)
    for step, found in parts.items():
        assert sum(found.values()) == pytest.approx(predicted[step], rel=1e-4)
        assert min(found.values()) > 0


def test_on_one_device_all_of_a_prediction_is_computing(tmp_path: Path) -> None:
    row = run(planned("static", placement={"*": "a"}), "sim", tmp_path)
    for found in predicted_parts(tmp_path / row["run"]).values():
        assert found["transfer"] == found["software"] == 0 < found["compute"]


def test_a_ratio_is_over_the_instances_that_both_finished() -> None:
    runs = [("ours", 1, "done", 10.0), ("ours", 2, "done", 20.0), ("theirs", 1, "done", 5.0), ("theirs", 2, "oom", 1.0)]
    frame = pd.DataFrame(runs, columns=["policy", "seed", "status", "mean_token_with_stall_ms"])
    found = ratio(frame, "ours", "theirs")
    assert found is not None
    assert (found.value, found.count) == (2.0, 1)


def test_a_collection_goes_on_where_it_was_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, parts = [planned("greedy"), planned("round-robin")], Parts(tmp_path)
    collect_runs(parts, runs[:1], "tiny", None)
    assert missing(parts, runs) == 1
    made = []
    monkeypatch.setattr(running, "run", lambda one: made.append(one.policy) or run(one))
    collect_runs(parts, runs, "tiny", None)
    assert made == ["round-robin"]
    assert [row["policy"] for row in found_rows(parts, runs)] == ["greedy", "round-robin"]


def test_a_run_without_a_placement_is_a_row_that_says_so() -> None:
    topology = {"generate": "paper", "devices": 4, "memory": "1.4 x model"}
    row = run(planned("single", topology=topology, traces=[]))
    assert (row["status"], row["error_kind"], row["tokens_done"]) == ("failed", "Infeasible", 0)
