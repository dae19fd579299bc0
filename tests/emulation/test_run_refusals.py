"""What is wrong is said in one sentence, with exit code 2, before anything is started."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from running import QUICKSTART, Place, save_checkpoint, topology, write_experiment
from unprivileged import without_rights

TRACE = "time,target,quantity,value\n0,link/b,rate,50 Mbit/s\n8,link/b,rate\n"


def refused(place: Place, experiment: Path, *arguments: str) -> str:
    """The sentence that refuses a run; nothing may have been started or written."""
    ended = place.testbed("replay", experiment, "--out", place.out, *arguments)
    assert ended.code == 2, (ended.code, ended.err)
    assert ended.out == "" and not place.out.exists() and not place.runtime.exists()
    return ended.sentence


def test_a_misspelt_key_is_refused_with_the_nearest_known_one(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path, polcy="static"))
    assert "'polcy'" in sentence and "'policy'" in sentence and "own.yaml" in sentence


def test_a_negative_rate_is_refused(place: Place, tmp_path: Path) -> None:
    slow = topology(b={"link": {"rate": "-5 Mbit/s"}})
    sentence = refused(place, write_experiment(tmp_path, topology=slow))
    assert "-5 Mbit/s" in sentence and "devices.b.link.rate" in sentence


def test_a_trace_with_a_row_too_short_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "gap.csv").write_text(TRACE)
    sentence = refused(place, write_experiment(tmp_path, traces=["gap.csv"]))
    assert "gap.csv" in sentence and "line 3" in sentence


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_missing_checkpoint_file_is_refused(missing: str, place: Place, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "gpt2", layers=1, width=32, heads=2, positions=64, vocab=64)
    (tmp_path / "gpt2" / missing).unlink()
    experiment = write_experiment(tmp_path, model={"path": "gpt2"}, prompt={"ids": [1, 2]})
    assert missing in refused(place, experiment)


def test_an_unknown_policy_is_refused_with_the_nearest_known_one(place: Place) -> None:
    sentence = refused(place, QUICKSTART, "--policy", "greddy")
    assert "'greddy'" in sentence and "'greedy'" in sentence


def test_a_source_that_is_no_device_is_refused(place: Place, tmp_path: Path) -> None:
    sentence = refused(place, write_experiment(tmp_path, topology=topology() | {"source": "z"}))
    assert "source" in sentence and "'z'" in sentence


def test_budgets_below_one_block_are_refused(place: Place, tmp_path: Path) -> None:
    crumbs = {name: {"memory": "20 KiB"} for name in "bcd"} | {"a": {"memory": "300 KiB"}}
    sentence = refused(place, write_experiment(tmp_path, topology=topology(**crumbs)))
    assert "no placement can fit" in sentence and "block needs" in sentence and "no device has more" in sentence


@pytest.mark.parametrize("backend", ["mininet", "local"])
def test_a_model_larger_than_all_devices_together_is_refused(backend: str, place: Place, tmp_path: Path) -> None:
    small = {name: {"memory": "250 KiB"} for name in "abcd"}
    sentence = refused(place, write_experiment(tmp_path, topology=topology(**small)), "--backend", backend)
    assert "no placement can fit" in sentence and "together" in sentence


def test_a_missing_experiment_or_a_wrong_option_is_refused(place: Place, tmp_path: Path) -> None:
    assert "absent.yaml" in refused(place, tmp_path / "absent.yaml")
    assert "tokens" in refused(place, QUICKSTART, "--tokens", "0")
    assert "sim2" in refused(place, QUICKSTART, "--backend", "sim2")


def test_a_dry_run_needs_neither_root_nor_mininet(place: Place) -> None:
    # A sitecustomize that hides them, for a user who is nobody.
    (place.base / "hide").mkdir()
    (place.base / "hide" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('mininet', 'zmq'):\n"
        "            raise ModuleNotFoundError(f'no module named {name} here', name=name)\n"
        "sys.meta_path.insert(0, Hidden)\n"
    )
    place.base.chmod(0o755)
    nobody = without_rights()
    env = nobody.env | {"PATH": "/nowhere", "PYTHONPATH": f"{place.base / 'hide'}:{nobody.root}"}
    for module in ("mininet", "zmq"):
        absent = subprocess.run([*nobody.prefix, nobody.python, "-c", f"import {module}"], env=env, capture_output=True)
        assert b"ModuleNotFoundError" in absent.stderr
    quickstart = nobody.root / "experiments" / "quickstart.yaml"
    ended = place.testbed("replay", quickstart, "--dry-run", "--json", "--out", place.out, by=nobody, env=env)
    assert ended.code == 0, ended.err
    plan = json.loads(ended.out)
    assert set(plan["devices"]) == set("abcd") and plan["predicted_token_ms"] > 0 and plan["feasible"]
    assert plan["devices"]["b"]["up"]["rate_bps"] == 50e6
    assert sum(len(device["blocks"]) for device in plan["devices"].values()) == 30 * 5
    assert not place.out.exists()
