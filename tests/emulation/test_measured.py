"""What an emulated run sees of itself: estimates near the truth, and a wrong delay that makes it unfaithful by name."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from host_pace import judging_time
from running import UNJUDGED, Place, rows, topology, write_experiment

from testbed.controller.calibration import NOMINAL, host_calibration
from testbed.controller.conditions import Conditions, observation_of
from testbed.controller.fleet import TargetState
from testbed.controller.generation import Controller
from testbed.emulation.local_fleet import LocalFleet
from testbed.experiment.prompt import prompt_ids
from testbed.experiment.schema import Experiment
from testbed.placement.observation import Estimate, LinkView, Observation
from testbed.placement.policies import make_policy
from testbed.runlog.folder import RunLog
from testbed.running.run_summary import run_summary
from testbed.transport.messages import PathView


class SlowerThanAsked(LocalFleet):
    """Its link of b takes a millisecond more than asked, in each direction."""

    more_s = 1e-3

    def _path(self, target: TargetState, sender: str, receiver: str) -> PathView:
        asked = super()._path(target, sender, receiver)
        return msgspec.structs.replace(asked, delay_s=asked.delay_s + self.more_s * ("b" in (sender, receiver)))


@pytest.mark.parametrize("more_s", [0.0, 1e-3])
def test_a_link_with_another_delay_than_asked_makes_the_run_unfaithful_by_name(place: Place, more_s: float) -> None:
    links = {name: {"link": {"rate": "200 Mbit/s", "delay": "1 ms"}} for name in "abcd"}
    place.base.mkdir(exist_ok=True)
    experiment = Experiment.load(write_experiment(place.base, topology=topology(**links), tokens=24))
    prompt = prompt_ids(experiment)
    fleet = SlowerThanAsked(experiment, place.base, len(prompt) + experiment.tokens)
    fleet.more_s = more_s
    log = RunLog.create(place.out, experiment.name, experiment.policy)
    try:
        controller = Controller(
            experiment, prompt, fleet, make_policy(experiment.policy, {}), log, effort="off", host=NOMINAL
        )
        outcome = controller.run()
        verdict = run_summary(experiment, controller, fleet, outcome)["verdict"]
    finally:
        fleet.stop()
        log.close()
    named = {reason.split(":")[0] for reason in verdict["reasons"] if reason.startswith("link ")}
    assert {row["device"] for row in rows(log.folder, "delays")} == set("abcd")
    with judging_time():
        assert named == ({"link b up", "link b down"} if more_s else set())


def test_a_run_that_sees_only_itself_keeps_its_bits_and_sees_what_is_there(place: Place, tmp_path: Path) -> None:
    slow = topology(**{name: {"streaming": "20 MB/s"} for name in "abcd"})  # so that operations last long enough
    experiment = write_experiment(tmp_path, compute="paced", observation="measured", tokens=24, topology=slow)
    ended = place.replay(experiment, "--backend", "mininet", "--verify", *UNJUDGED)
    assert ended.code == 0, ended.err
    assert ended.summary["verified"] == "bitwise"
    boundaries: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(ended.folder, "estimates"):
        if row["step"] and row["used"]:
            boundaries[row["step"]][row["quantity"]].append(abs(row["estimate"] / row["truth"] - 1))
    assert sorted(boundaries) == [4, 8, 12, 16, 20]
    for off in boundaries.values():
        assert set(off) >= {"memory", "up", "down", "streaming"}
        assert max(off["memory"]) <= 0.02
    with judging_time():
        for off in boundaries.values():
            assert max(off["streaming"] + off["compute"]) <= 0.05
            assert statistics.median(off["up"] + off["down"]) <= 0.10


def as_recorded(folder: Path, experiment: Experiment, step: int) -> Observation:
    """What the run's policy was shown at a boundary, from the table of estimates."""
    found = {
        (row["target"], row["quantity"]): Estimate(row["estimate"], row["age_s"], row["spread"])
        for row in rows(folder, "estimates")
        if row["step"] == step
    }
    memory = {name: int(found[f"device/{name}", "memory"].value) for name in "abcd"}
    target, prompt = Conditions(experiment).target(), len(prompt_ids(experiment))
    told = observation_of(experiment, target, memory, prompt, step, host_calibration().hop_overhead_s)
    devices = tuple(
        replace(
            view,
            streaming_Bps=found[f"device/{view.name}", "streaming"].value,
            compute_flops=found[f"device/{view.name}", "compute"].value,
        )
        for view in told.devices
    )
    ways = ("up", "down", "up_delay", "down_delay")
    links = {name: LinkView(*(found[f"link/{name}", way].value for way in ways)) for name in told.links}
    return replace(told, devices=devices, links=links, estimates=found)


@pytest.mark.parametrize("policy", ["headroom", "paper-search", "greedy"])
def test_what_an_emulated_run_has_seen_gives_the_same_placements_outside_of_it(
    place: Place, tmp_path: Path, policy: str
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time,target,quantity,value\n6,link/c,rate,2 Mbit/s\n8,device/b,memory,160 KiB\n")
    sizes = {name: {"memory": f"{size} KiB"} for name, size in zip("abcd", (640, 480, 480, 320), strict=True)}
    path = write_experiment(
        tmp_path, tokens=24, compute="paced", policy=policy, traces=[str(trace)], observation="measured",
        topology=topology(**sizes),
    )  # fmt: skip
    ended = place.replay(path, "--backend", "mininet", *UNJUDGED)
    assert ended.code == 0, ended.err
    placed: dict[int, dict[str, str]] = defaultdict(dict)
    for row in rows(ended.folder, "placements"):
        placed[row["epoch"]][row["block"]] = row["device"]
    experiment, asked, placement = Experiment.load(path), make_policy(policy, {}), None
    asked.reset(experiment.seed)
    decisions = rows(ended.folder, "decisions")
    assert len(decisions) == 6 and (policy == "headroom" or any(row["moved"] for row in decisions))
    for row in decisions:
        placement = asked.decide(as_recorded(ended.folder, experiment, row["step"]), placement)
        assert {str(block): device for block, device in placement.devices.items()} == placed[row["epoch"]]


def test_a_trace_that_takes_memory_is_seen_by_samples(place: Place, tmp_path: Path) -> None:
    trace = tmp_path / "squeeze.csv"
    trace.write_text("time,target,quantity,value\n4,device/b,memory,48 MiB\n")
    experiment = write_experiment(tmp_path, traces=[str(trace)], grace=0, observation="measured")
    ended = place.replay(experiment, "--backend", "mininet", *UNJUDGED)
    assert ended.code == 0, ended.err
    found = {
        row["step"]: row["estimate"]
        for row in rows(ended.folder, "estimates")
        if (row["target"], row["quantity"]) == ("device/b", "memory")
    }
    assert found[0] == 64 * 2**20 and found[4] == pytest.approx(48 * 2**20, rel=0.02)
