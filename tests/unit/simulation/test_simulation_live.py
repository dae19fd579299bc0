"""Simulated runs whose blocks are copied while tokens go on: the same tokens, a short stall, and budgets that hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated import PLAIN, drive, experiment

from testbed.controller.calibration import NOMINAL
from testbed.controller.generation import Controller
from testbed.placement.blocks import Block, Placement, blocks_of, resident_bytes
from testbed.placement.observation import Observation
from testbed.runlog.folder import RunLog
from testbed.simulation.fleet import SimFleet
from testbed.traces import Change
from testbed.transport.copying import CaughtUp, Halt
from testbed.transport.messages import Collect, Commit, Decode

TOKENS, INTERVAL, HEADS = 40, 4, 12
PROMPT = [7 * i % 1000 for i in range(900)]


class Mover:
    """Moves the heads of layer 0 from b to c at the first decision; `after` may ask for something else later."""

    name = "mover"

    def __init__(self, after: dict[int, str] | None = None) -> None:
        self.after = after or {}

    def reset(self, seed: int) -> None:
        self.decisions = 0

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        heads = [Block("head", 0, group) for group in range(HEADS)]
        if placement is None:
            return Placement(dict.fromkeys(blocks_of(observation.shape), "a") | dict.fromkeys(heads, "b"))
        self.decisions += 1
        target = self.after.get(self.decisions, "c")
        return placement.with_moves((head, target) for head in heads)


def moving(migration: str, *changes: Change, budget: str = "1 GiB", of_b: Any = None, **keys: Any) -> Any:
    """gpt2 at 900 tokens of context on three devices; b's uplink has 20 Mbit/s."""
    device = {"streaming": "1.5 GB/s", "compute": "12 GFLOP/s", "memory": "1 GiB", "storage": "90 MB/s"}
    link = {"rate": "100 Mbit/s", "delay": "0.3 ms"}
    topology = {
        "shape": "star", "source": "a",
        "devices": {
            "a": device | {"link": link},
            "b": device | {"link": {"up": "20 Mbit/s", "down": "100 Mbit/s", "delay": "0.3 ms"}} | (of_b or {}),
            "c": device | {"link": link, "memory": budget},
        },
    }  # fmt: skip
    keys = PLAIN | {"topology": topology, "prompt": {"ids": PROMPT}, "prefill_chunk": 300} | keys
    keys = {"tokens": TOKENS, "interval": INTERVAL} | keys
    return experiment("model.preset=gpt2", changes=changes, migration=migration, **keys)


def stalls(kept: dict[str, Any]) -> list[tuple[int, float]]:
    return [(row["step"], row["stall_s"]) for row in kept["decisions"] if row["moved"]]


def test_a_live_migration_stalls_for_a_hundredth_and_slows_no_token_by_a_tenth(tmp_path: Path) -> None:
    _, _, stopped = drive(tmp_path / "stop", moving("stop"), Mover())
    _, outcome, kept = drive(tmp_path / "live", moving("live"), Mover())
    assert outcome.status == "done" and [row["step"] for row in kept["tokens"]] == list(range(TOKENS))
    ((at, long),), ((step, short),) = stalls(stopped), stalls(kept)
    assert at == INTERVAL and step > at and 2.2 < long < 2.6 and short < 0.01 * long
    assert {row["live"] for row in kept["migrations"]} == {True} and len(kept["migrations"]) == HEADS
    sent = sum(row["bytes"] for row in kept["migrations"])
    assert sent == HEADS * 2 * 64 * 4 * (len(PROMPT) + step - 1), "each row once"
    copied_s = kept["migrations"][0]["last_byte_s"] - kept["migrations"][0]["start_s"]
    assert copied_s == pytest.approx(kept["migrations"][0]["predicted_s"], rel=0.05)
    for before, meanwhile in zip(stopped["tokens"][1:], kept["tokens"][1:], strict=True):
        assert meanwhile["latency_s"] < 1.01 * before["latency_s"]
        assert meanwhile["predicted_s"] == pytest.approx(meanwhile["latency_s"])
    assert any(a["latency_s"] > b["latency_s"] for a, b in zip(kept["tokens"], stopped["tokens"], strict=True))


@pytest.mark.parametrize(("slow", "live"), [("1.5 GB/s", True), ("0.02 GB/s", False)])
def test_auto_copies_unless_the_new_placement_is_so_much_faster_that_waiting_for_it_loses_more(
    tmp_path: Path, slow: str, live: bool
) -> None:
    _, _, kept = drive(tmp_path, moving("auto", of_b={"streaming": slow}), Mover())
    assert {row["live"] for row in kept["migrations"]} == {live}


def test_a_copy_that_the_policy_no_longer_wants_is_aborted_and_begun_anew(tmp_path: Path) -> None:
    _, outcome, kept = drive(tmp_path, moving("live"), Mover({3: "a", 4: "b"}))
    assert outcome.status == "done"
    ended = {(row["epoch"], row["dst"], row["outcome"]) for row in kept["migrations"]}
    assert ended == {(1, "c", "aborted"), (2, "a", "aborted"), (3, "c", "aborted")}, "the run ends before the third"


class Swapper(Mover):
    """Has half of the heads of layer 0 on b and half on c, and swaps them at the first decision."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        homes = ("b", "c") if placement is None else ("c", "b")
        heads = {Block("head", 0, group): homes[group % 2] for group in range(HEADS)}
        return Placement(dict.fromkeys(blocks_of(observation.shape), "a") | heads)


def test_tokens_stop_where_both_placements_fit_now_and_not_until_the_intervals_end(tmp_path: Path) -> None:
    prompt, page = 908, 912  # positions; at the interval's end another page has begun
    of = moving("live")
    both = sum(resident_bytes(of.shape, Block("head", 0, group), page) for group in range(HEADS))
    for budget, live in ((both, False), (2 * both, True)):
        keys = {"budget": f"{budget} B", "prompt": {"ids": (PROMPT * 2)[:prompt]}}
        fleet, outcome, kept = drive(tmp_path, moving("live", **keys), Swapper())
        assert outcome.status == "done", outcome.error
        assert {(row["live"], row["outcome"]) for row in kept["migrations"]} == {(live, "committed")}
        assert all(ledgers["c"] <= budget for _, _, ledgers in fleet.at_tokens)


def test_an_announced_decrease_aborts_the_copy(tmp_path: Path) -> None:
    change = Change(10.0, "device/c", "memory", 800 * 2.0**20)
    _, outcome, kept = drive(tmp_path, moving("live", change), Mover())
    assert outcome.status == "done"
    assert {(row["live"], row["outcome"]) for row in kept["migrations"]} == {(True, "aborted"), (False, "committed")}


@pytest.mark.parametrize("dies", ["b", "c"])
def test_a_loss_ends_the_copy_and_the_run_goes_on(tmp_path: Path, dies: str) -> None:
    stays = dict.fromkeys(range(3, 99), "b") if dies == "c" else {}
    _, outcome, kept = drive(tmp_path, moving("live", Change(10.0, f"device/{dies}", "kill", 1.0)), Mover(stays))
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS, outcome.error
    assert [row["step"] for row in kept["recoveries"]] == [10]
    assert (True, "aborted") in {(row["live"], row["outcome"]) for row in kept["migrations"]}


def test_the_return_of_a_device_ends_the_copy_and_it_begins_anew(tmp_path: Path) -> None:
    topology = moving("live").topology.to_dict()
    topology["devices"]["d"] = topology["devices"]["a"]
    changes = Change(2.0, "device/d", "kill", 1.0), Change(10.0, "device/d", "restart", 1.0)
    _, outcome, kept = drive(tmp_path, moving("live", *changes, topology=topology, tokens=70), Mover({1: "b"}))
    assert outcome.status == "done" and len(kept["tokens"]) == 70, outcome.error
    assert {(row["epoch"], row["outcome"]) for row in kept["migrations"] if row["live"]} == {
        (2, "aborted"),
        (3, "committed"),
    }


@pytest.mark.parametrize("change", [None, Change(9.0, "device/a", "kill", 1.0)])
def test_a_run_that_ends_while_blocks_are_copied_says_so(tmp_path: Path, change: Change | None) -> None:
    of = moving("live", *([] if change is None else [change]), tokens=10)
    _, outcome, kept = drive(tmp_path, of, Mover())
    assert outcome.status == ("done" if change is None else "failed")
    assert {row["outcome"] for row in kept["migrations"]} == {"aborted"}


class LateNews(SimFleet):
    """A fleet whose copies are heard to have caught up only while tokens stand still, as may happen on a real one."""

    def __init__(self, of: Any) -> None:
        super().__init__(of, len(of.prompt.ids), NOMINAL.hop_overhead_s)
        self._held_back: list[tuple[str, Any]] = []
        self.halts = 0

    def send(self, device: str, command: Any) -> None:
        generating = self._generation is not None
        assert not (generating and isinstance(command, Decode)), "a token is asked for twice"
        assert not (generating and isinstance(command, Commit)), "a placement is switched in the middle of a token"
        self.halts += isinstance(command, Halt)
        super().send(device, command)
        if isinstance(command, Collect):
            self._pending, self._held_back = [*self._held_back, *self._pending], []

    def events(self, timeout_s: float) -> list[tuple[str, Any]]:
        found = super().events(timeout_s)
        if self._generation is None:
            return found
        self._held_back += [one for one in found if isinstance(one[1], CaughtUp)]
        return [one for one in found if not isinstance(one[1], CaughtUp)]


@pytest.mark.parametrize("after", [{}, {4: "a"}, {3: "b"}])
def test_a_source_that_halts_between_intervals_is_heard_before_the_next_token(
    tmp_path: Path, after: dict[int, str]
) -> None:
    of = moving("live", prompt={"ids": PROMPT[:60]}, tokens=32)
    fleet, log = LateNews(of), RunLog.create(tmp_path, of.name, of.policy)
    outcome = Controller(of, PROMPT[:60], fleet, Mover(after), log, effort="off").run()
    log.close()
    assert outcome.status == "done" and len(outcome.tokens) == 32, outcome.error
    assert fleet.halts
