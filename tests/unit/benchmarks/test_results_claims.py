"""What the table of claims rests on: played runs, verdicts from intervals, and frozen rows that are compared."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.results import claimed_migration, judged, reproduce, worth, worth_page
from benchmarks.results.paired import Mean, with_better_edgeshard
from benchmarks.results.play import play
from benchmarks.results.running import FREE_EDGESHARD
from testbed.controller.calibration import NOMINAL
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy
from testbed.runlog.comparison import COST
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


def test_a_verdict_needs_an_interval_on_one_side_of_its_border() -> None:
    assert judged.at_most(Mean(1.1, 1.05, 1.15, 20), 1.2) == judged.YES
    assert judged.at_most(Mean(1.1, 1.05, 1.25, 20), 1.2) == judged.OPEN
    assert judged.at_most(Mean(1.4, 1.25, 1.55, 20), 1.2) == judged.NO
    both = {"edgeshard": Mean(1.5, 1.4, 1.6, 20), "galaxy": Mean(0.9, 0.8, 1.1, 20)}
    assert judged.ahead_of(both, 1.0) == "reproduced against edgeshard only"
    assert judged.ahead_of({**both, "edgeshard": None}, 1.0) == judged.OPEN
    assert judged.ahead_of(dict.fromkeys(both), 1.0) == "undecided: no rival finishes"
    assert judged.saves(Mean(0.01, 0.005, 0.015, 20)) == "hardly: under 2%"
    assert judged.finishes(Mean(-0.2, -0.3, -0.1, 20)) == "not reproduced: fewer runs finish"


def test_of_two_runs_of_edgeshard_the_better_counts() -> None:
    runs = [(1, "edgeshard", 64, 12.0), (1, FREE_EDGESHARD, 64, 11.0), (2, "edgeshard", 64, 13.0),
            (2, FREE_EDGESHARD, 9, 5.0), (1, "paper", 64, 10.0)]  # fmt: skip
    frame = pd.DataFrame(runs, columns=["seed", "policy", "tokens_done", COST]).assign(tokens_asked=64)
    found = with_better_edgeshard(frame, ("seed",)).sort_values(["policy", "seed"])
    assert found[["policy", "seed", COST]].values.tolist() == [
        ["edgeshard", 1, 11],
        ["edgeshard", 2, 13],
        ["paper", 1, 10],
    ]


def test_scenarios_of_a_fleet_count_as_one_instance() -> None:
    runs = [
        {"devices": 4, "seed": seed, "scenario": scenario, "policy": policy, "reserve": reserve, "status": status,
         "token_ms": ms}
        for seed, scenario in ((1, "announced"), (1, "returns"), (2, "announced"), (2, "returns"))
        for policy, reserve, status, ms in (("paper", None, "done", 8.0), ("static", 0.0, "done", 10.0))
    ]  # fmt: skip
    pair = claimed_migration.beside_static(pd.DataFrame(runs), "paper")
    saved = claimed_migration._over_fleets(pair["saved"])
    assert saved is not None and (saved.count, saved.value) == (2, pytest.approx(0.2))


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
