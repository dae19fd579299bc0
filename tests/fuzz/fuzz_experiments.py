"""Experiment files, sweep files and `--set` overrides, up to the check before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yamls import dumped, overrides_of, yaml_like

from testbed.experiment.schema import Experiment
from testbed.running.sweep_file import Sweep
from testbed.strict_yaml import parse_yaml

ROOT = Path(__file__).parents[2]


def shipped(name: str) -> Any:
    return parse_yaml((ROOT / "experiments" / name).read_text(), name)


INLINE = {
    "model": {"preset": "tiny", "layers": 2},
    "prompt": {"ids": [1, 2, 3]},
    "tokens": 16,
    "interval": 4,
    "partition": {"ffn_shards": 2, "proj_rows": True, "vocab_shards": 1, "exchange": "hub"},
    "topology": parse_yaml((ROOT / "topologies" / "mesh4.yaml").read_text(), "mesh4"),
    "traces": [
        {
            "name": "t",
            "end": "loop",
            "period": 12,
            "changes": [[0, "link/a-b", "up", 1e6], [8, "device/b", "memory", 1e8]],
        },
        {"generate": "outage", "target": "link/c-d", "at": 4},
    ],
    "policy": "static",
    "placement": {"*": "a", "head(0,*)": "b"},
    "policy_options": {},
    "decision_limit": "1 min",
    "dilation": 2.0,
    "compute": "paced",
    "switch": "linuxbridge",
    "delay": "auto",
    "grace": 0,
    "charge_decision": True,
    "ignore_eos": True,
    "sampling": {"temperature": 0.8, "top_k": 5, "top_p": 0.9},
}
SMALL = shipped("small-scale.yaml") | {"tokens": 12, "prompt": {"chat": [{"role": "user", "content": "Why?"}]}}
MEDIUM = shipped("medium-scale.yaml") | {
    "tokens": 20,
    "model": {"preset": "tiny"},
    "topology": {"generate": "two-tier", "devices": 5, "clusters": 2},
}
STAR = shipped("quickstart.yaml")
KNOWN = [
    "topology.devices.a.memory",
    "topology.devices.a.link.rate",
    "topology.devices.zz.memory",
    "topology.backhaul.rate",
    "topology.clusters.x",
    "prompt.file",
    "prompt.chat",
    "prompt.chat.0.role",
    "sampling",
    "sampling.top_k",
    "ignore_eos",
    "model.path",
    "partition.exchange",
    "traces.0.target",
    "policy_options.x",
    "placement.*",
    "seed",
    "grace",
    "prefill_chunk",
    "name",
    "observation",
    "weights",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in a folder next to all files that shipped experiments name."""
    folder = tmp_path_factory.mktemp("experiment") / "experiments"
    folder.mkdir()
    for name in ("topologies", "traces"):
        (folder.parent / name).symlink_to(ROOT / name)
    (folder / "inline.yaml").write_text(dumped(INLINE))
    (folder / "small.yaml").write_text(dumped(SMALL))
    (folder / "star.yaml").write_text(dumped(STAR))
    return folder / "experiment.yaml"


def check(loaded: Experiment) -> None:
    written = json.dumps(loaded.to_dict(), allow_nan=False)
    assert Experiment.from_dict(json.loads(written), loaded.name) == loaded


@given(content=yaml_like([INLINE, SMALL, MEDIUM, STAR]))
def fuzz_an_experiment_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    check(Experiment.load(file))


@given(
    name=st.sampled_from(["inline.yaml", "inline.yaml", "small.yaml", "star.yaml"]),
    overrides=st.one_of(overrides_of(INLINE, KNOWN), overrides_of(SMALL, KNOWN)),
)
def fuzz_an_override(file: Path, name: str, overrides: list[str]) -> None:
    check(Experiment.load(file.with_name(name), overrides))


SWEEP = {
    "experiment": "inline.yaml",
    "policies": ["static"],
    "seeds": [1],
    "backend": "sim",
    "over": {"interval": [4], "topology.source": ["b"]},
}


@given(content=yaml_like([SWEEP, shipped("sweep-delay.yaml")]))
def fuzz_a_sweep_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    sweep = Sweep.load(file)
    many = max(map(len, (sweep.policies, sweep.seeds, *sweep.over.values())), default=1)
    if sweep.experiment.name == "inline.yaml" and many <= 2:
        for run in sweep.runs():
            json.dumps(dict(run.values))
