"""What a journal keeps of a run reads back as it was: placements, observations and conditions."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from placement_cases import networked, placed

from testbed.controller.conditions import Conditions
from testbed.controller.journal import asked_of, blocks_of, observation_of, placement_of, replay_crossings
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement
from testbed.placement.observation import Estimate, LinkView, Observation
from testbed.runlog.journal import Asked, Crossing
from testbed.runlog.writing import encode
from testbed.traces import Change, Trace, TraceSet


def through_the_journal(asked: Asked) -> Asked:
    return msgspec.json.decode(encode(asked), type=Asked)


@given(placed())
def test_a_placement_reads_back(case: tuple[Observation, Placement]) -> None:
    _, placement = case
    found = placement_of(blocks_of(placement), placement.epoch)
    assert found.devices == placement.devices and found.epoch == placement.epoch


@given(networked())
def test_an_observation_reads_back_with_what_changes_in_a_run(case: tuple[Observation, Placement]) -> None:
    seen, placement = case
    kept = {block: seen.source for block in placement.devices if block.kind == "head"}
    seen = replace(seen, estimates={("link/b", "up"): Estimate(2e6, 0.5, 0.1)}, replicas=kept)
    present = replace(
        seen, tokens_done=seen.tokens_done + 1, hop_overhead_s=1.0, estimates=None, replicas={},
        devices=tuple(replace(view, available_bytes=1, streaming_Bps=1.0) for view in seen.devices),
        links={name: LinkView(1.0, math.inf, 0.0, 0.0) for name in seen.links},
    )  # fmt: skip
    asked = through_the_journal(asked_of(seen, placement))
    found = observation_of(asked, present)
    assert found == seen and (found.estimates, found.replicas) == (seen.estimates, seen.replicas)
    assert asked.given == {device: list(names) for device, names in blocks_of(placement).items()}


def test_a_rate_without_end_reads_back(observation: Observation) -> None:
    endless = replace(observation, links={"b": LinkView(math.inf, math.inf, 0.0, 0.0)})
    assert observation_of(through_the_journal(asked_of(endless, None)), endless).links == endless.links


@pytest.fixture
def observation() -> Observation:
    from placement_cases import quickstart

    return quickstart()


@pytest.mark.parametrize("clock", ["token", "time"])
@pytest.mark.parametrize("ramp", [None, "8 MB/s"])
def test_conditions_are_brought_to_where_a_run_left_them(clock: str, ramp: str | None) -> None:
    rows = [(0.0, 100), (3.5, 60), (6.0, 40), (11.0, 90), (13.0, 30)]
    changes = tuple(Change(time, "device/b", "memory", mib * 2.0**20) for time, mib in rows)
    rates = tuple(Change(time, "link/b", "up", 1e6 * time) for time in (2.0, 5.0, 12.5, 14.0))
    device = {"streaming": "2 GB/s", "compute": "8 GFLOP/s", "memory": "100 MiB", "storage": "90 MB/s"}
    link = {"rate": "20 Mbit/s", "delay": "1 ms"}
    base = {
        "model": {"preset": "tiny"}, "prompt": "hi", "tokens": 64, "ramp": ramp, "trace_clock": clock,
        "topology": {"source": "a", "devices": {name: device | {"link": link} for name in "ab"}},
    }  # fmt: skip
    experiment = Experiment.from_dict(base).model_copy(
        update={"traces": TraceSet((Trace(tuple(sorted((*changes, *rates), key=lambda row: row.time_s))),))}
    )
    run, crossings = Conditions(experiment), []
    run.begin()
    for boundary in range(1, 4):
        until = 4.0 * boundary
        while clock == "time" and (due := run.next_change_s()) is not None and due <= until:
            run.advance(due, boundary)
        run.advance(until, boundary)
        run.enforce(boundary, boundary != 2)
        crossings.append(Crossing(until, boundary, boundary != 2))
    if clock == "time":
        while (due := run.next_change_s()) is not None and due <= 13.5:
            run.advance(due, 4)
        run.advance(13.5, 4)
    again = Conditions(experiment)
    again.begin()
    replay_crossings(again, crossings, 13.5, 4, clock == "token")
    assert again.target() == run.target() and again.announced_memory() == run.announced_memory()
    assert again.time == run.time and again.next_change_s() == run.next_change_s()
