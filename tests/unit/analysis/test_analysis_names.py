"""Which runs are drawn as one, and what tells the others apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from figures import drawn
from synthetic_run import make_run

from testbed import analysis
from testbed.analysis import plots
from testbed.analysis.plots import run_names


def test_runs_of_one_policy_are_told_apart_by_seed_and_share_a_colour(tmp_path: Path) -> None:
    runs = [analysis.load(make_run(tmp_path, "greedy", seed=seed, tokens=12)) for seed in (0, 1)]
    lines = drawn(plots.token_latency(runs), "latency")
    assert [line.get_label() for line in lines] == ["greedy, seed 0", "greedy, seed 1"]
    assert lines[0].get_color() == lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    (pooled,) = [line for line in plots.latency_ecdf(runs).axes[0].lines if line.get_gid() is None]
    assert len(pooled.get_xdata()) == 22 + 1


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"backend": "sim"}, "sim"),
        ({"experiment_name": "other"}, "other"),
        ({"experiment": {"model": {"preset": "gpt2", "seed": 7, "layers": 4}}}, "gpt2 layers 4"),
        ({"experiment": {"topology": {"name": "star8"}}}, "star8"),
        ({"experiment": {"interval": 2}}, "interval 2"),
    ],
)
def test_no_figure_pools_runs_of_two_backends_experiments_models_topologies_or_settings(
    change: dict[str, Any], name: str, tmp_path: Path
) -> None:
    runs = [analysis.load(make_run(tmp_path, "greedy", seed=seed, tokens=12)) for seed in range(10)]
    runs[:2] = [replace(run, manifest={**run.manifest, **change}, summary=None) for run in runs[:2]]
    first, second = run_names(runs[1:3])
    assert name in first and name not in second
    (one, other) = [line for line in plots.latency_ecdf(runs).axes[0].lines if line.get_gid() is None]
    assert [len(line.get_xdata()) for line in (one, other)] == [2 * 11 + 1, 8 * 11 + 1]
    assert one.get_color() == other.get_color() and one.get_linestyle() != other.get_linestyle()
    for draw in (plots.latency_ecdf, plots.token_latency, plots.predicted_vs_measured):
        (axes, *_) = draw(runs).axes
        named = [text.get_text() for text in axes.get_legend().get_texts() if text.get_text().startswith("greedy")]
        assert len(named) == 2 and name in named[0] and name not in named[1], draw.__name__


def test_runs_are_told_apart_by_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    run = analysis.load(make_run(tmp_path, tokens=4))
    traces: list[dict[str, Any]] = [{"name": "outage", "changes": []}]
    settings: list[dict[str, Any]] = [{"policy_options": {}, "traces": []}, {"policy_options": {"margin": 0.2}}]
    settings[1]["traces"] = traces
    two = [replace(run, manifest={**run.manifest, "experiment": own}, summary=None) for own in settings]
    assert run_names(two) == [
        "resource-aware, traces none, policy_options.margin default",
        "resource-aware, traces outage, policy_options.margin 0.2",
    ]


def test_twelve_runs_that_nothing_tells_apart_are_numbered_so_that_they_sort(tmp_path: Path) -> None:
    runs = [analysis.load(make_run(tmp_path, "greedy", seed=0, tokens=4)) for _ in range(12)]
    names = run_names(runs)
    assert names == sorted(names) and (names[0], names[-1]) == ("greedy #01", "greedy #12")
    assert run_names(runs[:2]) == ["greedy #1", "greedy #2"]
