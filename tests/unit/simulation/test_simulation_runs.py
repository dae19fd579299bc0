"""Simulated runs: what they leave, what tokens, moves, outages and pauses cost, and when memory ends them."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import drive, experiment, simulated

from testbed.controller.calibration import HostCalibration
from testbed.errors import OutOfMemory
from testbed.placement.blocks import Block, Placement, blocks_of, copies_of, parse_block, pinned_bytes, resident_bytes
from testbed.placement.cost.model import migration_delay, prefill_latency, token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import make_plan
from testbed.simulation.transfers import Transfers
from testbed.traces import Change
from testbed.transport.messages import Incoming

MIB = 2**20
ON_A_AND_B = {"*": "a", "ffn(*)": "b"}
NO_TRACES: tuple[Change, ...] = ()


class Scripted:
    """A policy that gives these placements in turn and then keeps the last; remembers what it was shown."""

    name = "scripted"

    def __init__(self, *placements: dict[Block, str]) -> None:
        self._placements = placements
        self.seen: list[Observation] = []

    def reset(self, seed: int) -> None:
        self.seen = []

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        wanted = self._placements[min(len(self.seen), len(self._placements) - 1)]
        self.seen.append(observation)
        return Placement(wanted) if placement is None else replace(placement, devices=wanted)


def spread(shape: Any, devices: str = "abcd") -> dict[Block, str]:
    return {block: devices[number % len(devices)] for number, block in enumerate(blocks_of(shape))}


# --- what a run leaves ------------------------------------------------------------------------------------


def test_a_run_leaves_every_table_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    summary, rows = simulated(tmp_path, experiment())
    assert (summary["status"], summary["backend"], summary["provenance"]) == ("done", "sim", "simulated")
    assert summary["verified"] is None and summary["tokens"] == [None] * 96
    assert any("simulated" in note for note in summary["verdict"]["notes"])
    assert [row["step"] for row in rows["tokens"]] == list(range(96))
    assert all(row["token_id"] is None and row["logits_digest"] is None for row in rows["tokens"])
    assert summary["migrations"] == len(rows["migrations"]) > 0 and summary["stall_s"] > 0
    assert rows["spans"] == [], "half-layers are computed as wholes"
    assert {row["device"] for row in rows["devices"]} == set("abcd")
    links = {(row["device"], row["direction"]) for row in rows["links"]}
    assert links == {(device, way) for device in "abcd" for way in ("up", "down")}


def test_a_run_repeats_exactly(tmp_path: Path) -> None:
    def told(number: int) -> Any:
        _, rows = simulated(tmp_path / str(number), experiment("tokens=40"))
        own = ("wall_s", "decision_s")  # the host's
        return {
            table: [{key: value for key, value in row.items() if key not in own} for row in found]
            for table, found in rows.items()
        }

    assert told(1) == told(2)


def test_tokens_take_what_the_cost_model_says_and_follow_one_another(tmp_path: Path) -> None:
    of = experiment("model.preset=tiny", changes=NO_TRACES, tokens=20, dilation=2.0)
    policy = Scripted(spread(of.shape))
    _, outcome, kept = drive(tmp_path, of, policy)
    assert outcome.status == "done"
    shown = policy.seen[0]
    assert shown.hop_overhead_s == pytest.approx(0.5e-4), "a dilated run feels half of the software"
    fine = replace(shown, hop_overhead_s=1e-4)  # what the fleet of this test was made with
    plan = make_plan(shown, Placement(spread(of.shape)))
    rows = kept["tokens"]
    assert rows[0]["latency_s"] == pytest.approx(prefill_latency(fine, plan, of.prefill_chunk))
    for row in rows[1:]:
        assert row["latency_s"] == pytest.approx(token_latency(fine, plan, shown.prompt_tokens + row["step"]), rel=1e-9)
    for before, after in itertools.pairwise(rows):
        assert after["start_s"] == pytest.approx(before["start_s"] + before["latency_s"])


def test_the_prediction_beside_each_token_is_its_latency(tmp_path: Path) -> None:
    host = HostCalibration(hop_overhead_s=3e-4, backend="mininet")
    for of in (experiment("tokens=48"), experiment("tokens=48", "dilation=3")):
        summary, _ = simulated(tmp_path, of, host)
        assert summary["prediction_error"] == pytest.approx(0, abs=1e-9)


def test_a_host_with_slower_software_is_slower_and_known_to_be(tmp_path: Path) -> None:
    of = experiment("tokens=8", changes=NO_TRACES)
    fast, _ = simulated(tmp_path, of, HostCalibration(hop_overhead_s=0.0, backend="mininet"))
    slow, _ = simulated(tmp_path, of, HostCalibration(hop_overhead_s=1e-2, backend="mininet"))
    assert slow["mean_token_ms"] > fast["mean_token_ms"]
    assert slow["predicted_ms"]["mean"] == pytest.approx(slow["mean_token_ms"])


# --- moving ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["staged", "shipped"])
def test_a_migration_stalls_for_the_migration_delay(tmp_path: Path, weights: str) -> None:
    of = experiment("model.preset=tiny", changes=NO_TRACES, tokens=16, weights=weights)
    first, second = spread(of.shape), spread(of.shape, "bcda")
    policy = Scripted(first, second)
    _, outcome, kept = drive(tmp_path, of, policy)
    assert outcome.status == "done"
    shown = policy.seen[1]
    expected = migration_delay(shown, Placement(first), Placement(second), shown.length - 1)
    assert kept["decisions"][1]["stall_s"] == pytest.approx(expected, rel=1e-9)
    assert [row["predicted_s"] for row in kept["migrations"]] == pytest.approx([expected] * len(kept["migrations"]))
    assert kept["tokens"][8]["start_s"] - kept["tokens"][7]["start_s"] - kept["tokens"][7]["latency_s"] == (
        pytest.approx(expected, rel=1e-6)
    )
    assert {row["outcome"] for row in kept["migrations"]} == {"committed"}
    for row in kept["migrations"]:
        assert row["start_s"] <= row["first_byte_s"] <= row["last_byte_s"] <= row["start_s"] + expected + 1e-9
        assert bool(row["weights_bytes_loaded"]) == (weights == "staged")


def test_the_loads_of_a_migration_are_added_up_once_for_all_its_receivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    proceed = Transfers.proceed

    def counted(moving: Transfers, *arguments: Any) -> None:
        begun.append(len(moving.incoming))
        proceed(moving, *arguments)

    monkeypatch.setattr(Transfers, "proceed", counted)
    of = experiment("model.preset=tiny", changes=NO_TRACES, tokens=16)
    _, outcome, _ = drive(tmp_path, of, Scripted(spread(of.shape), spread(of.shape, "bcda")))
    assert outcome.status == "done" and begun == [4]


def test_a_rate_that_changes_half_way_slows_only_what_is_left_of_that_link(tmp_path: Path) -> None:
    of = experiment("model.preset=tiny", changes=NO_TRACES, weights="shipped")
    policy = Scripted(spread(of.shape))
    drive(tmp_path, of, policy)
    shown = replace(policy.seen[0], tokens_done=8)
    incoming = {"b": [Incoming("ffn(0)", "a", 10**6)], "c": [Incoming("ffn(1)", "a", 10**6)]}
    moving = Transfers(1, 30, 0.0, incoming)
    moving.proceed(0.0, shown)
    alone = moving.end_s
    links = dict(shown.links)
    links["b"] = replace(links["b"], down_bps=links["b"].down_bps / 1000)
    slower = replace(shown, links=links)
    moving.proceed(0.01, slower)
    b, c = moving.loads["b", "down"], moving.loads["c", "down"]
    assert b.end_s == pytest.approx(0.01 + (1 - 0.01 / b_seconds(shown)) * 1000 * b_seconds(shown))
    assert c.end_s < alone
    moving.proceed(0.02, shown)
    assert alone < moving.end_s < alone + 0.011, "ten milliseconds were as good as lost, no more"


def b_seconds(shown: Observation) -> float:
    """What the block takes on b's downlink alone."""
    moving = Transfers(1, 30, 0.0, {"b": [Incoming("ffn(0)", "a", 10**6)]})
    moving.proceed(0.0, shown)
    return moving.loads["b", "down"].total_s


# --- memory ---------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(data=st.data())
def test_every_ledger_is_the_sum_over_the_placement_at_every_step(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cut: dict[str, Any] = {
        "ffn_shards": data.draw(st.sampled_from([1, 4])),
        "proj_rows": data.draw(st.booleans()),
        "vocab_shards": data.draw(st.sampled_from([1, 3])),
    }
    if cut["ffn_shards"] > 1 and cut["proj_rows"]:
        cut["exchange"] = data.draw(st.sampled_from(["hub", "all-to-all"]))
    interval = data.draw(st.integers(1, 7))
    of = experiment("model.preset=tiny", changes=NO_TRACES, tokens=20, interval=interval, partition=cut)
    blocks = blocks_of(of.shape, of.partition)
    where = st.lists(st.sampled_from("abcd"), min_size=len(blocks), max_size=len(blocks))
    placements = [dict(zip(blocks, data.draw(where), strict=True)) for _ in range(4)]
    fleet, outcome, kept = drive(tmp_path_factory.mktemp("run"), of, Scripted(*placements))
    assert outcome.status == "done" and [step for step, _, _ in fleet.at_tokens] == list(range(20))
    prompt = fleet._prompt_tokens
    by_epoch: dict[int, dict[Block, str]] = defaultdict(dict)
    for row in kept["placements"]:
        by_epoch[row["epoch"]][parse_block(row["block"])] = row["device"]

    def weight(held: dict[str, set[Block]], length: int) -> dict[str, int]:
        pinned = {of.topology.source: pinned_bytes(of.shape, of.partition)}
        copies = copies_of(of.shape, of.partition)
        return {
            name: pinned.get(name, 0)
            + sum(resident_bytes(of.shape, block, length, of.partition) for block in (*copies, *held[name]))
            for name in "abcd"
        }

    def on(epoch: int) -> dict[str, set[Block]]:
        return {name: {block for block, device in by_epoch[epoch].items() if device == name} for name in "abcd"}

    for step, epoch, ledgers in fleet.at_tokens:
        assert ledgers == weight(on(epoch), prompt + step)
    moved = {row["epoch"] for row in kept["migrations"]}
    first_step = {row["epoch"]: row["step"] for row in kept["placements"]}
    for epoch, ledgers in fleet.at_arrivals:
        old = max(earlier for earlier in by_epoch if earlier < epoch)
        both = {name: on(old)[name] | on(epoch)[name] for name in "abcd"}
        assert epoch in moved and ledgers == weight(both, prompt + first_step[epoch] - 1), "old and incoming together"
    for row in kept["devices"]:
        assert row["ledger_bytes"] == row["predicted_bytes"]


def test_a_squeeze_below_the_ledger_ends_the_run_as_on_a_real_device(tmp_path: Path) -> None:
    squeeze = (Change(16, "device/b", "memory", 60 * MIB),)
    summary, rows = simulated(tmp_path, experiment("policy=static", placement=None, changes=squeeze, grace=0))
    assert (summary["status"], summary["exit_code"], summary["oom_kills"]) == ("oom", 5, 0)
    assert "device b ran out of memory at token 16" in summary["error"] and "60 MiB" in summary["error"]
    assert len(rows["tokens"]) == 16


def test_a_squeeze_is_announced_and_enforced_when_the_grace_is_over(tmp_path: Path) -> None:
    squeeze = (Change(16, "device/b", "memory", 60 * MIB),)
    of = experiment("policy=static", placement=ON_A_AND_B, model={"preset": "tiny"}, changes=squeeze)
    assert simulated(tmp_path, of)[0]["status"] == "done"
    of = experiment("policy=static", changes=squeeze)
    summary, rows = simulated(tmp_path, of)
    assert summary["status"] == "oom" and len(rows["tokens"]) == 16, "static decides, which is a commit"


def test_a_cache_that_outgrows_its_budget_ends_the_run_at_that_token(tmp_path: Path) -> None:
    of = experiment("policy=static", placement={"*": "c"}, changes=NO_TRACES)
    need = sum(resident_bytes(of.shape, block, 24 + 8) for block in blocks_of(of.shape))
    fleet, outcome, kept = drive(tmp_path, experiment(
        "policy=static", f"topology.devices.c.memory={need} B", placement={"*": "c"}, changes=NO_TRACES,
    ))  # fmt: skip
    assert outcome.status == "oom" and isinstance(outcome.error, OutOfMemory)
    last = kept["tokens"][-1]["step"]

    def size(step: int) -> int:
        length = fleet._prompt_tokens + step
        return sum(resident_bytes(of.shape, block, length) for block in blocks_of(of.shape))

    assert size(last) <= need < size(last + 1)


# --- the time clock -------------------------------------------------------------------------------------------


def timed(*changes: Change, **keys: Any) -> Any:
    return experiment(
        "policy=static", trace_clock="time", placement=ON_A_AND_B, model={"preset": "tiny"}, changes=changes,
        interval=8, tokens=40, **keys,
    )  # fmt: skip


def latencies(out: Path, *changes: Change) -> list[float]:
    summary, rows = simulated(out, timed(*changes))
    assert summary["status"] == "done"
    return [row["latency_s"] for row in rows["tokens"]]


def test_an_outage_holds_the_token_that_meets_it_until_it_is_over(tmp_path: Path) -> None:
    usual = latencies(tmp_path)
    start = sum(usual[:10]) + 0.3 * usual[10]
    found = latencies(tmp_path, Change(start, "link/b", "up", 0.0), Change(start + 2.0, "link/b", "up", 50e6))
    assert found[:10] == pytest.approx(usual[:10])
    assert found[10] == pytest.approx(usual[10] + 2.0, rel=1e-3)
    assert found[11:] == pytest.approx(usual[11:])


def test_a_pause_stops_the_tokens_of_the_plans_devices_and_of_no_other(tmp_path: Path) -> None:
    usual = latencies(tmp_path)
    start = sum(usual[:10]) + 0.3 * usual[10]
    pause = [Change(start, "device/b", "pause", 1.0), Change(start + 1.5, "device/b", "pause", 0.0)]
    found = latencies(tmp_path, *pause)
    assert found[10] == pytest.approx(usual[10] + 1.5)
    elsewhere = [replace(change, target="device/d") for change in pause]
    assert latencies(tmp_path, *elsewhere) == pytest.approx(usual)


def test_a_rate_that_falls_in_the_middle_of_a_token_counts_for_the_rest_of_it(tmp_path: Path) -> None:
    usual = latencies(tmp_path)
    slow = latencies(tmp_path, Change(0, "link/b", "up", 1e6), Change(0, "link/b", "down", 1e6))
    start = sum(usual[:10]) + 0.25 * usual[10]
    found = latencies(tmp_path, Change(start, "link/b", "up", 1e6), Change(start, "link/b", "down", 1e6))
    assert found[10] == pytest.approx(0.25 * usual[10] + 0.75 * slow[10])
    assert found[11:] == pytest.approx(slow[11:])


def test_an_outage_that_never_ends_fails_the_run_in_one_sentence(tmp_path: Path) -> None:
    summary, _ = simulated(tmp_path, timed(Change(0.01, "link/b", "up", 0.0)))
    assert (summary["status"], summary["exit_code"]) == ("failed", 5)
    assert "the link of b is at 0 bit/s" in summary["error"]
    assert math.isfinite(summary["total_s"])


@pytest.mark.parametrize("held", [("link/b", "up", 0.0, 50e6), ("device/b", "pause", 1.0, 0.0)])
def test_what_traces_hold_up_for_long_and_let_go_ends_no_run(
    tmp_path: Path, held: tuple[str, str, float, float]
) -> None:
    target, quantity, begin, end = held
    changes = Change(0.01, target, quantity, begin), Change(400.0, target, quantity, end)
    summary, rows = simulated(tmp_path, timed(*changes))
    assert summary["status"] == "done", summary["error"]
    assert sum(row["latency_s"] > 390 for row in rows["tokens"]) == 1


def test_changes_are_applied_at_their_time(tmp_path: Path) -> None:
    _, rows = simulated(tmp_path, timed(Change(0.05, "link/b", "up", 30e6), Change(0.125, "link/b", "up", 40e6)))
    ups = [row for row in rows["links"] if row["direction"] == "up" and row["t_s"] > 0]
    changed = [(row["t_s"], row["requested_bps"]) for row in ups]
    assert changed == [(pytest.approx(0.05), 30e6), (pytest.approx(0.125), 40e6)]
    assert all(abs(row["lag_s"]) < 1e-9 for row in rows["links"])


# --- what cannot be simulated ---------------------------------------------------------------------------------


def test_a_run_that_no_placement_can_carry_is_told_and_leaves_a_summary(tmp_path: Path) -> None:
    of = experiment("policy=round-robin", "topology.devices.b.memory=1 MiB", "topology.devices.c.memory=1 MiB")
    summary, _ = simulated(tmp_path, of)
    assert summary["status"] == "failed" and "round-robin has no first placement" in summary["error"]
