"""Runs settings of the regime map under traces: links, speeds and tight memory fluctuate.

Each seed of a setting is another fleet with other traces, and all policies meet the same seeds. The settings are cells
of the grid on both sides of the map's borders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from benchmarks.results.cells import FFN_SHARDS, Cell, experiment_with
from benchmarks.results.play import play
from benchmarks.results.rows import RIVALS, Row, Work, row_of
from benchmarks.results.store import Parts
from testbed.experiment.schema import Experiment
from testbed.placement.policies import make_policy

TOKENS, INTERVAL = 64, 16
SEEDS = range(1, 101)
_EVERY = {"step": INTERVAL}
LINKS = {"generate": "fluctuation", "target": "link/*", **_EVERY}
SPEEDS = {"generate": "fluctuation", "target": "device/*", **_EVERY}
MEMORY = {"generate": "fluctuation", "target": "device/*", "quantity": "memory", "spread": 0.1, "least": 0.8, **_EVERY}
# Shape, devices, delay in ms, rate in Mbit/s, streaming in GB/s, memory and context; each has several seeds.
SETTINGS = tuple(
    Cell(*values, 0)
    for values in (
        ("gpt2", 4, 0.1, 1000, 4, "loose", "short"),
        ("gpt2", 4, 0.1, 1000, 4, "tight", "short"),
        ("gpt2", 4, 0.3, 100, 4, "tight", "long"),
        ("gpt2", 6, 0.3, 100, 17, "tight", "short"),
        ("gpt2", 6, 1.0, 100, 4, "loose", "short"),
        ("gpt2", 6, 1.0, 1000, 17, "tight", "long"),
        ("gpt2", 4, 3.0, 10, 4, "tight", "short"),
        ("gpt2", 8, 3.0, 100, 60, "tight", "short"),
        ("gpt2", 4, 10.0, 1000, 60, "loose", "long"),
        ("gpt2", 6, 10.0, 10, 17, "tight", "long"),
        ("tinyllama-1.1b", 4, 0.3, 1000, 4, "loose", "short"),
        ("tinyllama-1.1b", 4, 1.0, 100, 17, "tight", "short"),
    )
)
POLICIES = ("headroom", "static", *RIVALS)


def traced_experiment(setting: int, seed: int, policy: str = "headroom") -> dict[str, Any]:
    """The experiment file of a seed of a setting as a mapping."""
    cell = SETTINGS[setting]._replace(seed=seed)
    traces = [LINKS, SPEEDS] + ([MEMORY] if cell.memory == "tight" else [])
    name = f"traced-{setting:02}-{seed:02}"
    return experiment_with(cell, name, policy) | {"tokens": TOKENS, "interval": INTERVAL, "traces": traces}


def rows(setting: int, seed: int, policies: Iterable[str] = POLICIES) -> Iterable[Row]:
    """The rows of all policies on a seed of a setting."""
    mapping = traced_experiment(setting, seed)
    experiment = Experiment.from_dict(mapping, mapping["name"])
    for policy in policies:
        played = play(experiment, make_policy(policy, {}))
        yield row_of(setting, policy, FFN_SHARDS, played) | {"seed": seed, "moved": played.moved}


def work() -> Iterator[list[Work]]:
    """The parts, in a group for each seed."""
    for seed in SEEDS:
        yield [Work(f"traced-{seed:02}-{setting:02}", partial(rows, setting, seed)) for setting in range(len(SETTINGS))]


def table(parts: Parts) -> pd.DataFrame:
    """A row for each setting, seed and policy, for the seeds that all settings have."""
    groups = [[parts.find(one.key) or [] for one in group] for group in work()]
    found = [row for group in groups if all(group) for part in group for row in part]
    return pd.DataFrame([SETTINGS[row["cell"]]._asdict() | row for row in found])
