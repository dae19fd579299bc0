"""What new results rest on: played runs, the best static placement, and frozen rows that are compared."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.results import reproduce, worth, worth_page
from benchmarks.results.play import play
from testbed.controller.calibration import NOMINAL
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy
from testbed.running.carry_out import carry_out
from testbed.running.remarks import tell_nobody
from testbed.running.request import RunRequest


@pytest.mark.parametrize("scenario", ["announced", "unannounced", "returns"])
@pytest.mark.parametrize("policy", ["paper-search", "round-robin"])
def test_memory_that_goes_ends_a_played_run_where_it_ends_a_replayed_one(
    policy: str, scenario: str, tmp_path: Path
) -> None:
    mapping = worth.experiment_of(worth.Cell(4, "1.4 x model", scenario, 3)) | {"policy": policy}
    mapping["model"] = {"preset": "gpt2", "layers": 4, "seed": 7}
    fleet = Experiment.from_dict({**mapping, "traces": []}, "cell")
    mapping["traces"] = worth.losses(fleet, 3, returns=scenario == "returns")
    experiment = Experiment.from_dict(mapping, "cell")
    summary = carry_out(RunRequest(experiment, "sim", tmp_path, calibrate="off"), tell_nobody, NOMINAL)
    played = play(experiment, make_policy(policy, {}))
    assert (played.status, played.tokens_done) == (summary["status"], len(summary["tokens"]))
    if played.status == "done":
        assert played.cost_ms == pytest.approx(summary["mean_token_with_stall_ms"], rel=1e-3)


def test_static_is_judged_by_the_reserve_with_which_most_runs_finish() -> None:
    runs = [(0.0, 1, "done", 10.0), (0.0, 2, "oom", None), (0.2, 1, "done", 12.0), (0.2, 2, "done", 14.0)]
    frame = pd.DataFrame(runs, columns=["reserve", "seed", "status", "token_ms"]).assign(policy="static")
    still = worth_page.best_static(frame)
    assert set(still["reserve"]) == {0.2}
    moving = pd.DataFrame([(1, "done", 6.0), (2, "done", 7.0)], columns=["seed", "status", "token_ms"])
    found = worth_page.compared(moving, still)
    assert found.saved is not None and found.saved.value == pytest.approx(0.5)


def test_a_recomputed_row_that_differs_is_told() -> None:
    one = reproduce.Repeat("x", ("seed",), ("status",), ("token_ms",), list)
    frozen = pd.DataFrame({"seed": [1, 2], "status": ["done", "done"], "token_ms": [10.0, 20.0]})
    assert reproduce.compared(one, frozen.assign(token_ms=[10.001, 20.0]), frozen) == []
    told = reproduce.compared(one, frozen.assign(token_ms=[11.0, 20.0]), frozen)
    assert told == ["('1',): token_ms is 11.0, and was 10.0"]
    assert reproduce.compared(one, frozen.assign(seed=[1, 3]), frozen) == ["('3',) is not among the frozen rows"]
