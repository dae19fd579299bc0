"""Many runs: what is refused before any begins, and what is said while they go on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated import experiment

import testbed
from testbed.errors import ConfigError
from testbed.running import many_runs
from testbed.running.request import RunRequest
from testbed.running.sweep import sweep

PAPERS = "paper-small"


def test_what_a_backend_cannot_carry_out_is_refused_before_a_run_is_announced(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(ConfigError, match="cost: paper is a formula that only --backend sim follows"):
        testbed.compare(PAPERS, ["greedy"], backend="local", out=tmp_path, progress=True, tell=told.append)
    assert told == [] and list(tmp_path.iterdir()) == []


def test_a_sweep_refuses_it_before_a_folder_is_made(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    file = tmp_path / "all.yaml"
    file.write_text(
        f"experiment: {root}/experiments/{PAPERS}.yaml\npolicies: [greedy]\nbackend: local\nover: {{tokens: [8]}}\n"
    )
    with pytest.raises(ConfigError, match="cost: paper"):
        sweep(file, out=tmp_path / "runs", tell=lambda remark: None)
    assert not (tmp_path / "runs").exists()


def test_runs_in_turn_are_announced_with_the_time_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 0.0, 40.0, 90.0))
    monkeypatch.setattr(many_runs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(many_runs, "carry_out", lambda request, tell: {"status": "done"})
    requests = [RunRequest(experiment(seed=seed), "local", tmp_path) for seed in (1, 2, 3)]
    told: list[str] = []
    done: list[int] = []

    def ended(number: int, summary: dict[str, Any]) -> None:
        done.append(number)

    many_runs.carry_out_all(requests, told.append, ended, announce=True)
    assert [line.rpartition("on local")[2] for line in told] == [" …", ", about 1 min left …", ", about 45 s left …"]
    assert done == [0, 1, 2]
