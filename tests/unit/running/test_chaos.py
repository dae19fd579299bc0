"""Drawn faults: the same for the same seed, within bounds, and runs survive them."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import drive, experiment

from testbed.experiment.schema import Experiment
from testbed.running.chaos import with_faults
from testbed.traces import Change

TINY = {"policy": "round-robin", "policy_options": {}, "placement": None, "dilation": 1.0, "tokens": 24, "interval": 4}


def drawn(seed: int, clock: str = "token", changes: tuple[Change, ...] = ()) -> Experiment:
    return with_faults(experiment("model.preset=tiny", changes=changes, trace_clock=clock, **TINY), seed)


@pytest.mark.parametrize("clock", ["token", "time"])
@pytest.mark.parametrize("seed", range(12))
def test_a_simulated_run_survives_drawn_faults(tmp_path: Path, clock: str, seed: int) -> None:
    of = drawn(seed, clock)
    struck = {change.target for change in of.traces.traces[-1].changes}
    assert 1 <= len(struck) <= 2 and "device/a" not in struck
    _, outcome, kept = drive(tmp_path, of)
    assert outcome.status == "done", outcome.error
    assert [row["step"] for row in kept["tokens"]] == list(range(24))


def test_the_same_seed_draws_the_same_faults_and_the_manifest_keeps_them() -> None:
    assert drawn(5).traces == drawn(5).traces
    assert len({str(drawn(seed).traces.traces) for seed in range(20)}) > 10
    of = drawn(5, "time")
    assert Experiment.from_dict(of.to_dict()).traces == of.traces


def test_on_the_time_clock_every_kind_of_fault_is_drawn() -> None:
    kinds = {change.quantity for seed in range(20) for change in drawn(seed, "time").traces.traces[-1].changes}
    assert kinds == {"kill", "restart", "pause"}


def test_devices_that_a_trace_strikes_already_are_left_alone() -> None:
    own = tuple(Change(3.0, f"device/{name}", "kill", 1.0) for name in "bc")
    for seed in range(10):
        assert {change.target for change in drawn(seed, changes=own).traces.traces[-1].changes} == {"device/d"}
