"""Runs that lose devices on real processes: every token and every bit is that of a run without losses."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from killing import children, kind, target
from running import UNJUDGED, Going, Place, events, rows, topology, write_experiment

BACKENDS = pytest.mark.parametrize("backend", ["local", "mininet"])
KILLS = "time,target,quantity,value\n"
RESTLESS = """
from testbed.placement.blocks import Placement
from testbed.placement.patterns import expand_patterns


class Restless:
    name = "restless"

    def reset(self, seed):
        self.turn = 0

    def decide(self, observation, placement):
        self.turn += 1
        names = [view.name for view in observation.devices if view.available_bytes > 2**20]
        one, two = (names[(self.turn + more) % len(names)] for more in (0, 1))
        return Placement(expand_patterns(observation, {"*": "a", "head(0,*)": one, "ffn(0)": two}))
"""


def workers(going: Going, backend: str) -> list[int]:
    """The pids of the workers of devices a, b, c and d, in this order."""
    server = target(going, "forkserver", backend)

    def all_of_them() -> list[int] | None:
        pids = sorted(pid for pid in children(server) if backend == "local" or kind(pid) == "worker")
        return pids if len(pids) == 4 else None

    found: list[int] = going.wait(all_of_them, "four workers")
    return found


def restless(folder: Path, tokens: int = 40) -> Path:
    """An experiment that moves blocks from device to device every second token."""
    (folder / "policy.py").write_text(RESTLESS)
    slow = {name: {"link": {"rate": "4 Mbit/s", "delay": "1 ms"}} for name in "abcd"}
    return write_experiment(
        folder, "restless", tokens=tokens, interval=2, policy=f"{folder / 'policy.py'}:Restless", delay="transport",
        topology=topology(**slow),
    )  # fmt: skip


@BACKENDS
def test_devices_that_a_trace_kills_cost_no_token_and_no_bit(place: Place, backend: str) -> None:
    place.base.mkdir(exist_ok=True)
    (place.base / "kills.csv").write_text(f"{KILLS}0,device/d,kill,1\n5,device/b,kill,1\n14,device/c,kill,1\n")
    experiment = write_experiment(place.base, tokens=20, traces=["kills.csv"])
    ended = place.done(experiment, "--backend", backend)
    assert ended.summary["lost_devices"] == ["d", "b", "c"] and ended.summary["recovery_s"] > 0
    recoveries = rows(ended.folder, "recoveries")
    assert [row["step"] for row in recoveries] == [0, 5, 14]
    assert [row["devices"] for row in recoveries] == ["d", "b,d", "b,c,d"]
    assert [row["step"] for row in rows(ended.folder, "tokens")] == list(range(20))
    assert place.left_behind() == []


@BACKENDS
def test_two_devices_that_die_at_once_cost_no_token_and_no_bit(place: Place, backend: str) -> None:
    place.base.mkdir(exist_ok=True)
    (place.base / "kills.csv").write_text(f"{KILLS}7,device/b,kill,1\n7,device/d,kill,1\n")
    experiment = write_experiment(
        place.base, tokens=16, traces=["kills.csv"], partition={"ffn_shards": 4, "proj_rows": True}
    )
    ended = place.done(experiment, "--backend", backend)
    assert sorted(ended.summary["lost_devices"]) == ["b", "d"]


@BACKENDS
def test_a_device_that_is_started_anew_takes_blocks_again_and_costs_no_bit(place: Place, backend: str) -> None:
    place.base.mkdir(exist_ok=True)
    strikes = "3,device/b,kill,1\n3,device/c,kill,1\n5,device/b,restart,1\n5,device/c,restart,1\n14,device/b,kill,1\n"
    (place.base / "strikes.csv").write_text(f"{KILLS}{strikes}15,device/b,restart,1\n")
    (place.base / "policy.py").write_text(RESTLESS)
    experiment = write_experiment(
        place.base, tokens=30, interval=2, policy=f"{place.base / 'policy.py'}:Restless", traces=["strikes.csv"]
    )
    ended = place.done(experiment, "--backend", backend)
    assert sorted(ended.summary["lost_devices"]) == ["b", "b", "c"]
    returned = [(row["device"], row["step"]) for row in events(ended.folder, "device_returned")]
    assert sorted(returned) == [("b", 6), ("b", 16), ("c", 6)]
    steps = {row["epoch"]: row["step"] for row in rows(ended.folder, "decisions")}
    after = {row["device"] for row in rows(ended.folder, "placements") if steps[row["epoch"]] > 16}
    assert after == set("abcd")
    samples = [row for row in rows(ended.folder, "devices") if row["device"] == "b"]
    assert len({row["limit_bytes"] for row in samples}) == 1
    assert place.left_behind() == []


@BACKENDS
@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_worker_that_is_killed_while_blocks_move_costs_no_token_and_no_bit(
    place: Place, backend: str, after: int
) -> None:
    place.base.mkdir(exist_ok=True)
    with place.started(restless(place.base), "--backend", backend, "--verify", *UNJUDGED) as going:
        victim = workers(going, backend)[1]
        going.until_token(after)
        os.kill(victim, signal.SIGKILL)
        ended = going.end()
    assert ended.code == 0, ended.err
    assert (ended.summary["status"], ended.summary["verified"]) == ("done", "bitwise")
    assert ended.summary["lost_devices"] == ["b"] and len(ended.summary["tokens"]) == 40
    assert place.left_behind() == []


@BACKENDS
def test_the_loss_of_the_source_ends_the_run_in_one_sentence(place: Place, backend: str) -> None:
    place.base.mkdir(exist_ok=True)
    (place.base / "kills.csv").write_text(f"{KILLS}5,device/a,kill,1\n")
    ended = place.replay(write_experiment(place.base, traces=["kills.csv"]), *UNJUDGED, "--backend", backend)
    assert ended.code == 5
    assert ended.sentence == "device a: its worker ended with code -9 at token 5"
    assert len(ended.summary["tokens"]) == 5 and place.left_behind() == []


def test_a_worker_that_a_signal_stops_for_good_is_lost(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    with place.started(restless(place.base, 20), "--backend", "local", "--verify", *UNJUDGED) as going:
        victim = workers(going, "local")[2]
        going.until_token(4)
        os.kill(victim, signal.SIGSTOP)
        ended = going.end()
    assert ended.code == 0, ended.err
    assert ended.summary["verified"] == "bitwise" and ended.summary["lost_devices"] == ["c"]
    assert [row["cause"] for row in rows(ended.folder, "faults")] == ["hung"]
