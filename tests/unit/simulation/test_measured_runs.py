"""`observation: measured` in the twin: estimates follow the truth, and decisions are those of the same observations."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated import Forgetful, experiment

from testbed.controller.calibration import NOMINAL
from testbed.controller.generation import Controller
from testbed.experiment.prompt import prompt_ids
from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.observation import Observation, Policy
from testbed.placement.policies import POLICIES, make_policy
from testbed.runlog.folder import TABLES, RunLog, read_rows
from testbed.simulation.fleet import SimFleet
from testbed.traces import Change

ROOT = Path(__file__).parents[3]
Rows = Sequence[dict[str, Any]]


class Few(Forgetful):
    """A policy that leaves devices out, and whose links it needs all the same: `where` has each layer's in turn."""

    def __init__(self, where: str) -> None:
        self.where = where

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        blocks = blocks_of(observation.shape, observation.partition)
        return placement or Placement({block: self.where[block.layer % len(self.where)] for block in blocks})


class Moving(Few):
    """One that moves what device b has to device d as soon as it can."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        if placement is None:
            return super().decide(observation, None)
        moves = [(block, "d") for block in placement.on("b") if block.kind == "head" and block.layer == 3]
        return placement.with_moves(moves, placement.epoch + 1) if moves else placement


class Watching:
    """A policy that asks another one, and remembers what it was shown."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self.name = policy, policy.name
        self.needs_links = getattr(policy, "needs_links", True)
        self.seen: list[Observation] = []

    def reset(self, seed: int) -> None:
        self._policy.reset(seed)

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        self.seen.append(observation)
        return self._policy.decide(observation, placement)


def ran(
    out: Path, *overrides: str, observation: str = "measured", policy: str | Policy = "paper-search", **keys: Any
) -> tuple[Watching, dict[str, Any]]:
    """A simulated run with a policy that is watched: (the policy, the rows by table)."""
    of = experiment(f"observation={observation}", *overrides, **keys)
    asked = make_policy(policy, {}) if isinstance(policy, str) else policy
    watching, prompt, log = Watching(asked), prompt_ids(of), RunLog.create(out, of.name, of.policy)
    controller = Controller(of, prompt, SimFleet(of, len(prompt), NOMINAL.hop_overhead_s), watching, log, effort="off")
    outcome = controller.run()
    log.close()
    assert outcome.status == "done", outcome.error
    return watching, {table: read_rows(log.folder, table) for table in TABLES}


def errors(rows: Rows, *quantities: str) -> list[float]:
    """The relative errors of estimates of what the interval before used."""
    chosen = [row for row in rows if row["quantity"] in quantities and row["used"] and row["step"] > 0]
    return [abs(row["estimate"] - row["truth"]) / row["truth"] for row in chosen]


def test_estimates_on_the_quick_start_are_near_the_truth(tmp_path: Path) -> None:
    _, kept = ran(tmp_path)
    rows = kept["estimates"]
    assert statistics.median(errors(rows, "up", "down")) <= 0.10
    assert max(errors(rows, "streaming", "compute")) <= 0.05
    assert max(errors(rows, "memory")) <= 0.02


def test_nothing_that_stays_as_it_was_told_is_estimated_to_be_otherwise(tmp_path: Path) -> None:
    oracle, _ = ran(tmp_path / "a", observation="oracle", changes=())
    measured, _ = ran(tmp_path / "b", changes=())
    assert measured.seen == oracle.seen and all(seen.estimates is not None for seen in measured.seen)


@pytest.mark.parametrize("name", ["two-tier6", "wifi4", "mesh4", "ring5"])
@pytest.mark.parametrize("policy", ["round-robin", "paper-search"])
def test_on_no_shape_is_a_link_estimated_to_be_slower_or_faster_than_it_is(
    tmp_path: Path, name: str, policy: str
) -> None:
    network = f"topology={ROOT / 'topologies' / name}.yaml"
    _, kept = ran(tmp_path, network, "traces=[]", "model={preset: tiny}", "tokens=48", policy=policy)
    assert {row["used"] for row in kept["estimates"]} == {True, False}
    for row in kept["estimates"]:
        assert row["estimate"] == pytest.approx(row["truth"], rel=0.1), row


@pytest.mark.parametrize("quantity, value", [("rate", 10e6), ("rate", 20e6), ("down", 5e6), ("up", 5e6)])
def test_a_link_that_becomes_slow_is_found_out_within_an_interval(tmp_path: Path, quantity: str, value: float) -> None:
    names = ("up", "down") if quantity == "rate" else (quantity,)
    changes = tuple(Change(8.0, "link/b", name, value) for name in names)
    _, kept = ran(tmp_path, policy="round-robin", changes=changes)
    late = [row for row in kept["estimates"] if row["step"] >= 16 and row["quantity"] in ("up", "down")]
    for row in late:
        if row["target"] == "link/b" and row["quantity"] in names:
            assert row["estimate"] == pytest.approx(value, rel=0.1)
        else:
            assert row["estimate"] >= 0.9 * row["truth"]


def test_links_are_found_although_each_device_sends_to_all_others_at_once(tmp_path: Path) -> None:
    slow = [
        (16, "c", "up", 1.8e6), (16, "b", "down", 40e6), (32, "b", "up", 5.6e5), (32, "c", "down", 12e6),
        (48, "c", "up", 49e6), (48, "c", "down", 21e6), (64, "a", "up", 7.1e5), (64, "d", "down", 9.9e5),
    ]  # fmt: skip
    changes = tuple(Change(float(at), f"link/{name}", way, bps) for at, name, way, bps in slow)
    watching, kept = ran(tmp_path, "model={preset: tiny}", policy="galaxy", changes=changes)
    for seen in watching.seen[4::2]:  # two intervals after a change
        rows = [row for row in kept["estimates"] if row["step"] == seen.tokens_done]
        true = {(row["target"].removeprefix("link/"), row["quantity"]): row["truth"] for row in rows}
        for pair in itertools.permutations("abcd", 2):
            path = seen.path(*pair)
            expected = min(true[leg.hop] for leg in path)
            assert min(leg.rate_bps for leg in path) == pytest.approx(expected, rel=0.25), (seen.tokens_done, pair)


def test_a_device_that_becomes_slow_is_found_out_within_an_interval(tmp_path: Path) -> None:
    changes = (Change(8.0, "device/b", "streaming", 1.1e9), Change(8.0, "device/b", "compute", 8e9))
    _, kept = ran(tmp_path, policy="round-robin", changes=changes)
    rows = [row for row in kept["estimates"] if row["target"] == "device/b" and row["step"] >= 16]
    assert all(row["estimate"] == pytest.approx(1.1e9, rel=0.02) for row in rows if row["quantity"] == "streaming")


def test_memory_is_sampled_and_what_is_announced_is_seen_before(tmp_path: Path) -> None:
    changes = (Change(8.0, "device/b", "memory", 100 * 2**20),)
    watching, _ = ran(tmp_path, policy="paper-search", changes=changes)
    assert watching.seen[1].device("b").available_bytes == 100 * 2**20


def test_the_same_observations_give_the_same_placements(tmp_path: Path) -> None:
    watching, kept = ran(tmp_path)
    again, placement = make_policy("paper-search", {}), None
    again.reset(experiment().seed)
    epochs: list[Placement] = []
    for seen in watching.seen:
        placement = again.decide(seen, placement)
        epochs.append(placement)
    moved = [row["moved"] for row in kept["decisions"]]
    assert [len(old.moves_to(new)) for old, new in itertools.pairwise(epochs)] == moved[1:]


def rates_of(kept: dict[str, Any], link: str, step: int) -> list[float]:
    """The estimates of a link's two rates at a boundary."""
    at = {row["quantity"]: row["estimate"] for row in kept["estimates"] if (row["target"], row["step"]) == (link, step)}
    return [at["up"], at["down"]]


def probes_of(kept: dict[str, Any]) -> Rows:
    return [row for row in kept["rates"] if row["how"] == "probe"]


def took_s(probe: dict[str, Any]) -> float:
    return float(probe["bytes"] * 8 / probe["achieved_bps"])


@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in ("exact", "single")])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_no_policy_causes_more_probes_than_the_budget_of_any_link(tmp_path: Path, policy: str, share: float) -> None:
    slow = {"b": (0, 10e6), "c": (24, 5e6), "d": (40, 60e6)}  # from a token on
    told = {"a": 200e6, "b": 50e6, "c": 100e6, "d": 150e6}
    changes = tuple(
        Change(float(at), f"link/{name}", way, bps) for name, (at, bps) in slow.items() for way in ("up", "down")
    )
    _, kept = ran(tmp_path, f"probe_share={share}", policy=policy, changes=changes)
    found = probes_of(kept)
    assert bool(found) == bool(getattr(make_policy(policy, {}), "needs_links", True))
    spent_s: dict[tuple[str, str], float] = defaultdict(float)
    for probe in found:
        step = min(row["step"] for row in kept["decisions"] if row["t_s"] >= probe["t_s"])
        for name, way in ((probe["device"], "up"), (probe["peer"], "down")):
            if probe["t_s"]:  # before the run probes are on credit
                assert spent_s[name, way] <= share * probe["t_s"]  # it has earned the time of the probes before
            since, bps = slow.get(name, (step + 1, 0.0))
            spent_s[name, way] += 8 * probe["bytes"] / (bps if step >= since else told[name])
    assert sum(row["stall_s"] for row in kept["decisions"]) >= sum(map(took_s, found))


def test_nothing_is_probed_without_a_budget(tmp_path: Path) -> None:
    _, kept = ran(tmp_path, "probe_share=0")
    assert probes_of(kept) == []


def test_a_late_answer_to_a_probe_is_not_taken_for_that_to_a_later_one(tmp_path: Path) -> None:
    changes = tuple(Change(8.0, "link/d", way, 3e5) for way in ("up", "down"))
    _, kept = ran(tmp_path, "probe_share=0.5", policy=Few("aaabbbbbcccc"), changes=changes)
    others = [probe for probe in probes_of(kept) if "d" not in (probe["device"], probe["peer"])]
    assert 0 < len(others) < len(probes_of(kept))
    for probe in others:
        assert probe["achieved_bps"] == pytest.approx(probe["requested_bps"], rel=0.1)


def test_a_link_that_nothing_crosses_is_found_out_by_a_probe(tmp_path: Path) -> None:
    changes = tuple(Change(8.0, "link/d", way, 10e6) for way in ("up", "down"))
    _, kept = ran(tmp_path, policy=Few("aaabbbbbcccc"), changes=changes)
    assert rates_of(kept, "link/d", 88) == pytest.approx([10e6, 10e6], rel=0.1)


def test_a_link_that_nothing_crosses_is_found_to_be_slow_and_to_be_fast_again(tmp_path: Path) -> None:
    told_bps = 150e6
    changes = tuple(
        Change(at, "link/d", way, bps) for at, bps in ((8.0, 2e6), (40.0, told_bps)) for way in ("up", "down")
    )
    _, kept = ran(tmp_path, policy=Few("aaabbbbbcccc"), changes=changes)
    for step, bps in ((32, 2e6), (88, told_bps)):
        assert rates_of(kept, "link/d", step) == pytest.approx([bps, bps], rel=0.1)


def test_the_first_placement_knows_which_links_are_slow_and_waits_for_that(tmp_path: Path) -> None:
    changes = tuple(Change(0.0, "link/c", way, 2e6) for way in ("up", "down"))
    watching, kept = ran(tmp_path, "trace_clock=time", policy="greedy", changes=changes)
    links = watching.seen[0].links
    assert (links["c"].up_bps, links["c"].down_bps) == pytest.approx((2e6, 2e6), rel=0.01)
    assert not any(row["device"] == "c" for row in kept["placements"])
    before = [took_s(probe) for probe in probes_of(kept) if probe["t_s"] == 0]
    assert len(before) == 6 and kept["decisions"][0]["stall_s"] >= sum(before)


@pytest.mark.parametrize("placement", [None, {"*": "a"}])
def test_static_looks_at_links_at_most_before_its_only_placement(
    tmp_path: Path, placement: dict[str, str] | None
) -> None:
    _, kept = ran(tmp_path, "model={preset: tiny}", "tokens=48", policy=make_policy("static", {}, placement))
    assert [probe["t_s"] for probe in probes_of(kept)] == ([] if placement else 6 * [0.0])


def test_links_of_the_living_are_probed_although_one_device_is_lost(tmp_path: Path) -> None:
    changes = (Change(8.0, "device/d", "kill", 1.0), *(Change(16.0, "link/c", way, 10e6) for way in ("up", "down")))
    of: dict[str, Any] = {"recovery": {"method": "recompute"}, "policy": Few("ab"), "changes": changes}
    _, kept = ran(tmp_path, "model={preset: tiny}", "tokens=160", "probe_share=0.1", **of)
    assert rates_of(kept, "link/c", 152) == pytest.approx([10e6, 10e6], rel=0.1)
    assert not any("d" in (probe["device"], probe["peer"]) for probe in probes_of(kept) if probe["t_s"])


def test_nothing_is_probed_while_blocks_are_copied(tmp_path: Path) -> None:
    slow = tuple(Change(0.0, "link/d", way, 8e5) for way in ("up", "down"))
    _, kept = ran(tmp_path, "migration=live", "probe_share=0.5", policy=Moving("aaabbbbbcccc"), changes=slow)
    copying = [row["t_s"] for row in kept["decisions"] if (row["reason"] or "").startswith("blocks are")]
    assert len(copying) > 5
    probed = [probe["t_s"] for probe in probes_of(kept) if probe["t_s"]]
    assert not any(copying[0] <= at <= copying[-1] for at in probed)
