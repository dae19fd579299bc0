"""Runs that lose devices on real processes: every token and every bit is that of a run without losses."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from host_pace import judging_time
from killing import children, kind, target
from running import UNJUDGED, Going, Place, events, rows, topology, write_experiment

from testbed.runlog.folder import read_json

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


SLOW = RESTLESS.replace("self.turn += 1\n", "self.turn += 1\n        time.sleep(4.0 if self.turn == 3 else 0.0)\n")


def started(pid: int) -> tuple[int, int]:
    """The clock tick at which a process started, and its number."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]), pid


def workers(going: Going, backend: str) -> list[int]:
    """The pids of the workers of devices a, b, c and d, in this order."""
    server = target(going, "forkserver", backend)

    def all_of_them() -> list[int] | None:
        # By their start, because the numbers of processes begin anew.
        pids = sorted((pid for pid in children(server) if backend == "local" or kind(pid) == "worker"), key=started)
        return pids if len(pids) == 4 else None

    found: list[int] = going.wait(all_of_them, "four workers")
    return found


def devices(folder: Path, kind: str) -> list[str]:
    """The devices of a run's events of one kind. On a busy host, others than the one that was hit may be among them."""
    return [row["device"] for row in events(folder, kind)]


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


def test_two_devices_that_die_at_once_cost_no_token_and_no_bit(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    (place.base / "kills.csv").write_text(f"{KILLS}7,device/b,kill,1\n7,device/d,kill,1\n")
    experiment = write_experiment(
        place.base, tokens=16, traces=["kills.csv"], partition={"ffn_shards": 4, "proj_rows": True}
    )
    ended = place.done(experiment, "--backend", "mininet")
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
def test_a_worker_that_is_killed_while_blocks_move_costs_no_token_and_no_bit(place: Place, backend: str) -> None:
    place.base.mkdir(exist_ok=True)
    with place.started(restless(place.base), "--backend", backend, "--verify", *UNJUDGED) as going:
        victim = workers(going, backend)[1]
        going.until_token(4)
        os.kill(victim, signal.SIGKILL)
        ended = going.end()
    assert ended.code == 0, ended.err
    assert (ended.summary["status"], ended.summary["verified"]) == ("done", "bitwise")
    assert ended.summary["lost_devices"] == ["b"] and len(ended.summary["tokens"]) == 40
    assert place.left_behind() == []


@pytest.mark.quiet
def test_a_loss_is_noticed_while_a_slow_policy_decides_and_its_decision_is_dropped(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    experiment = restless(place.base, 12)
    (place.base / "policy.py").write_text("import time\n" + SLOW)
    with place.started(experiment, "--backend", "local", "--verify", *UNJUDGED) as going:
        victim = workers(going, "local")[1]
        folder = going.until_token(4)
        time.sleep(1.0)  # into the third decision
        os.kill(victim, signal.SIGKILL)
        killed = time.time()
        ended = going.end()
    assert ended.code == 0, ended.err
    assert ended.summary["verified"] == "bitwise" and ended.summary["lost_devices"] == ["b"]
    (fault,) = rows(folder, "faults")
    decisions = [row for row in rows(folder, "decisions") if row["step"] == 4]
    assert decisions[0]["reason"] == "device b is lost", "the decision under way was not committed"
    with judging_time():
        assert fault["wall_s"] - killed < 1.0 and all(row["decision_s"] < 1.0 for row in decisions)


def test_the_loss_of_the_source_ends_the_run_in_one_sentence(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    (place.base / "kills.csv").write_text(f"{KILLS}5,device/a,kill,1\n")
    ended = place.replay(write_experiment(place.base, traces=["kills.csv"]), *UNJUDGED, "--backend", "local")
    assert ended.code == 5
    assert ended.sentence == "device a: its worker ended with code -9 at token 5"
    assert len(ended.summary["tokens"]) == 5 and place.left_behind() == []


@pytest.mark.quiet
def test_a_worker_that_a_signal_stops_is_suspected_within_a_second_and_lost_when_its_time_is_up(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    options = ("--backend", "mininet", "--verify", *UNJUDGED, "--set", "recovery.suspect_after=2 s")
    with place.started(restless(place.base, 20), *options) as going:
        victim = workers(going, "mininet")[2]
        folder = going.until_token(4)
        os.kill(victim, signal.SIGSTOP)
        stopped = time.time()
        going.wait(lambda: "c" in devices(folder, "device_suspected") or None, "a suspicion")
        ended = going.end()
    assert ended.code == 0, ended.err
    assert ended.summary["verified"] == "bitwise" and ended.summary["lost_devices"] == ["c"]
    *_, suspected = [row for row in events(folder, "device_suspected") if row["device"] == "c"]
    (fault,) = rows(folder, "faults")
    assert fault["cause"] == "hung"
    with judging_time():
        assert suspected["wall_s"] - stopped < 1.0 and 1.7 < fault["wall_s"] - stopped < 3.5


def test_a_worker_that_goes_on_before_its_time_is_up_is_not_lost(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    with place.started(restless(place.base, 20), "--backend", "local", "--verify", *UNJUDGED) as going:
        victim = workers(going, "local")[2]
        folder = going.until_token(4)
        os.kill(victim, signal.SIGSTOP)
        going.wait(lambda: "c" in devices(folder, "device_suspected") or None, "a suspicion")
        os.kill(victim, signal.SIGCONT)
        ended = going.end()
    assert ended.code == 0, ended.err
    assert ended.summary["verified"] == "bitwise" and ended.summary["lost_devices"] == []
    assert "c" in devices(folder, "device_heard")


def test_drawn_faults_cost_no_token_and_no_bit_and_stand_in_the_manifest(place: Place) -> None:
    place.base.mkdir(exist_ok=True)
    experiment = write_experiment(place.base, tokens=16, interval=2)
    ended = place.done(experiment, "--backend", "mininet", "--chaos", "4")
    (trace,) = read_json(ended.folder / "manifest.json")["experiment"]["traces"]
    struck = sorted(row[1].removeprefix("device/") for row in trace["changes"] if row[2] == "kill")
    assert trace["name"] == "chaos-4" and struck and sorted(ended.summary["lost_devices"]) == struck
