"""What the results page compares with `exact` are a run's own decisions, and the optimum is never above them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.results.replayed import DECIDED, ONE_LAYER, WHOLE_RUN, Instance, rows_of
from benchmarks.results.running import Planned, run
from testbed import analysis

INSTANCE = Instance(ONE_LAYER, 4, "tight", 4, 1)
POLICIES = ("paper-search", "galaxy", "round-robin")


@pytest.mark.parametrize("policy", POLICIES)
def test_decisions_beside_exact_are_those_of_the_simulated_run(policy: str, tmp_path: Path) -> None:
    import yaml

    settings = dict(one.split("=", 1) for one in INSTANCE.overrides)
    settings = {key: yaml.safe_load(value) for key, value in settings.items() if key != "seed"}
    row = run(Planned("small-scale.yaml", policy, INSTANCE.seed, settings, hop_s=1e-4), keep=tmp_path)
    decided = analysis.load(tmp_path / row["run"]).decisions
    replayed = rows_of(INSTANCE, [policy])
    assert [one["moved_blocks"] or 0 for one in replayed][1:] == decided["moved"].tolist()[1:]
    assert sum(one["moved_blocks"] or 0 for one in replayed) == row["migrations"]


def test_no_decision_costs_less_than_the_optimum_and_no_run_less_than_the_offline_one() -> None:
    rows = rows_of(INSTANCE, POLICIES)
    assert len(rows) == 4 * len(POLICIES)
    assert any(row["moved_blocks"] for row in rows)
    whole = rows_of(Instance(WHOLE_RUN, 3, "loose", 1, 1), [*POLICIES, "exact"])
    for row in rows + whole:
        assert row["status"] == DECIDED and row["proved"]
        assert row["cost_s"] >= row["exact_s"] * (1 - 1e-9)
    assert whole[-1]["cost_s"] <= min(row["cost_s"] for row in whole)
