"""A policy's old name still works, everywhere, and is told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.experiment.schema import Experiment
from testbed.placement.policies import POLICIES, make_policy, renamed, shared_out

QUICKSTART = Path(__file__).parents[3] / "experiments" / "gpt2-star4.yaml"


def test_the_old_name_makes_the_policy_that_has_the_new_one(caplog: pytest.LogCaptureFixture) -> None:
    renamed._told.cache_clear()
    assert [make_policy("resource-aware", {}).name for _ in range(2)] == ["paper-search"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "Policy resource-aware is now called paper-search; the old name still works."
    ]


def test_an_experiment_that_names_it_has_the_new_name() -> None:
    assert Experiment.load(QUICKSTART, ["policy=resource-aware"]).policy == "paper-search"
    assert list(shared_out(["resource-aware", "greedy"], {"deadline": "1 s"})) == ["paper-search", "greedy"]


def test_new_names_are_policies_and_old_ones_are_not() -> None:
    assert set(renamed.RENAMED.values()) <= set(POLICIES)
    assert not set(renamed.RENAMED) & set(POLICIES)
