"""Every policy carries out real runs bit for bit, on loopback and on Mininet, with little memory and less later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running import Ended, Place, rows, topology, write_experiment

from testbed.experiment.schema import Experiment
from testbed.placement.policies import POLICIES
from testbed.running.dry_run import plan_run

# A layer of the tiny preset takes 248 KiB with its caches, the embedding 196 KiB.
SQUEEZE = "time,target,quantity,value\n4,device/{name},memory,{left}\n"
DEVICES = {name: {"memory": "800 KiB"} for name in "bcd"}


def squeezed(folder: Path, policy: str, victim: str, **changes: Any) -> Path:
    """An experiment on the tiny preset whose source has little memory and in which one device loses most of its own."""
    (folder / "squeeze.csv").write_text(SQUEEZE.format(name=victim, left="100 KiB"))
    mapping: dict[str, Any] = {
        "policy": policy,
        "topology": topology(a={"memory": "300 KiB"}, **DEVICES),
        "traces": ["squeeze.csv"],
    }
    return write_experiment(folder, **(mapping | changes))


def fullest(experiment: Path) -> str:
    """The device other than the source with the most blocks at first."""
    loaded = Experiment.load(experiment)
    devices = plan_run(loaded, loaded.prompt_tokens or 0)["devices"]
    return max((name for name in devices if name != "a"), key=lambda name: (devices[name]["need_bytes"], name))


# What a policy decides does not depend on the network: on loopback two are enough, of whole blocks and of shards.
MOVING = [name for name in POLICIES if name not in ("single", "static", "exact")]
EVERY = [*((name, "mininet") for name in MOVING), ("headroom", "local"), ("tensor-parallel", "local")]


@pytest.mark.parametrize("policy, backend", EVERY)
def test_every_policy_moves_off_a_squeezed_device_bit_for_bit(
    policy: str, backend: str, place: Place, tmp_path: Path
) -> None:
    _moves_off_a_squeezed_device(place, tmp_path, policy, backend)


def test_galaxy_with_four_ffn_shards_moves_off_a_squeezed_device_bit_for_bit(place: Place, tmp_path: Path) -> None:
    ended = _moves_off_a_squeezed_device(place, tmp_path, "galaxy", "mininet", partition={"ffn_shards": 4})
    sharded = {row["device"] for row in rows(ended.folder, "placements") if row["block"].startswith("ffn(0,")}
    assert len(sharded) > 1


def _moves_off_a_squeezed_device(place: Place, folder: Path, policy: str, backend: str, **changes: Any) -> Ended:
    name = fullest(squeezed(folder, policy, victim="b", **changes))
    ended = place.done(squeezed(folder, policy, victim=name, **changes), "--backend", backend)
    assert ended.summary["oom_kills"] == 0 and len(ended.summary["tokens"]) == 12
    assert name in {row["src"] for row in rows(ended.folder, "migrations")}
    assert all(row["feasible"] for row in rows(ended.folder, "decisions"))
    return ended


@pytest.mark.parametrize("policy, backend", [("single", "local"), ("static", "mininet")])
def test_the_policies_that_need_not_move_run_too(policy: str, backend: str, place: Place, tmp_path: Path) -> None:
    ended = place.done(write_experiment(tmp_path, policy=policy), "--backend", backend)
    assert ended.summary["migrations"] == 0


def test_single_says_that_no_device_holds_the_model(place: Place, tmp_path: Path) -> None:
    ended = place.replay(squeezed(tmp_path, "single", victim="b"), "--backend", "local")
    assert ended.code == 5
    assert "policy single has no first placement" in ended.sentence and "no device has room" in ended.sentence
