"""Simulated runs that lose devices: they go on with the living, and say what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from simulated import PLAIN, Forgetful, Watched, drive, experiment, simulated

from testbed.placement.blocks import Placement
from testbed.placement.observation import Observation
from testbed.placement.patterns import expand_patterns
from testbed.runlog.folder import read_lines
from testbed.simulation.fleet import SimFleet
from testbed.traces import Change
from testbed.transport.messages import Token

TOKENS, INTERVAL = 24, 8


def changed(*changes: Change, **keys: Any) -> Any:
    """The quick start with the tiny model, and with these changes."""
    return experiment("model.preset=tiny", changes=changes, **PLAIN | {"tokens": TOKENS, "interval": INTERVAL} | keys)


def struck(*strikes: tuple[float, str, str], **keys: Any) -> Any:
    """The same with devices that die or are started anew at these tokens."""
    return changed(*(Change(token, f"device/{name}", what, 1.0) for token, name, what in strikes), **keys)


def dying(*kills: tuple[float, str], **keys: Any) -> Any:
    """The same with devices that die at these tokens."""
    return struck(*((token, name, "kill") for token, name in kills), **keys)


def test_a_run_that_loses_a_device_generates_all_its_tokens_without_it(tmp_path: Path) -> None:
    fleet, outcome, kept = drive(tmp_path, dying((11, "b")))
    assert outcome.status == "done" and len(outcome.tokens) == TOKENS
    assert [row["step"] for row in kept["tokens"]] == list(range(TOKENS))
    (fault,) = kept["faults"]
    assert (fault["device"], fault["step"], fault["cause"], fault["recovering"]) == ("b", 11, "exit", True)
    assert fault["killed_s"] == fault["t_s"], "in virtual time a death is noticed at once"
    assert {row["device"] for row in kept["placements"] if row["epoch"] == 0} == set("abcd")
    last = kept["placements"][-1]["epoch"]
    assert {row["device"] for row in kept["placements"] if row["epoch"] == last} == set("acd")
    assert fleet.observe().devices[1].alive is False


def test_a_recovery_says_when_what_was_done_and_takes_as_long_as_predicted(tmp_path: Path) -> None:
    of = dying((11, "b"))
    _, _, kept = drive(tmp_path, of)
    (row,) = kept["recoveries"]
    assert row["step"] == 11 and row["devices"] == "b" and row["blocks"] > 0 and row["loaded_bytes"] > 0
    first = next(token for token in kept["tokens"] if token["step"] == 11)
    assert row["noticed_s"] <= row["decided_s"] <= row["committed_s"] <= row["rebuilt_s"] <= row["token_s"]
    assert row["rebuilt_s"] - row["committed_s"] == pytest.approx(row["predicted_s"])
    assert first["epoch"] == row["epoch"] and first["start_s"] == pytest.approx(row["rebuilt_s"])
    assert row["rows"] == len(of.prompt.plain) + 11 - 1
    stall = next(one["stall_s"] for one in kept["decisions"] if one["step"] == 11)
    assert stall == pytest.approx(row["rebuilt_s"] - row["noticed_s"])


def test_no_token_comes_before_a_death_is_noticed_also_of_a_device_that_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill, events, dying_since = SimFleet.kill, SimFleet.events, dict[str, int]()

    def noticed_late(fleet: SimFleet, timeout_s: float) -> Any:
        for device in list(dying_since):
            dying_since[device] += 1
            if dying_since[device] == 3:
                kill(fleet, device)
        return events(fleet, timeout_s)

    monkeypatch.setattr(SimFleet, "kill", lambda fleet, device: dying_since.setdefault(device, 0))
    monkeypatch.setattr(SimFleet, "events", noticed_late)
    _, outcome, kept = drive(tmp_path, dying((11, "d"), policy="static", placement={"*": "a", "ffn(0)": "b"}))
    assert outcome.status == "done" and [row["step"] for row in kept["recoveries"]] == [11]


@pytest.mark.parametrize("token", [0, 1, 8, 23])
def test_a_device_may_die_before_any_token(tmp_path: Path, token: int) -> None:
    _, outcome, kept = drive(tmp_path, dying((token, "c")))
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS
    assert [row["step"] for row in kept["recoveries"]] == [token]


def test_two_devices_may_die_at_once_and_a_third_later(tmp_path: Path) -> None:
    _, outcome, kept = drive(tmp_path, dying((5, "b"), (5, "c"), (14, "d")))
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS
    assert [row["devices"] for row in kept["recoveries"]] == ["b,c", "b,c,d"]
    last = kept["placements"][-1]["epoch"]
    assert {row["device"] for row in kept["placements"] if row["epoch"] == last} == {"a"}


@pytest.mark.parametrize("policy", ["paper-search", "headroom", "greedy", "edgeshard", "tensor-parallel", "static"])
def test_every_policy_places_what_is_lost_on_the_living(tmp_path: Path, policy: str) -> None:
    _, outcome, kept = drive(tmp_path, dying((11, "b"), policy=policy))
    assert outcome.status == "done", outcome.error
    last = kept["placements"][-1]["epoch"]
    assert "b" not in {row["device"] for row in kept["placements"] if row["epoch"] == last}


def test_the_loss_of_the_source_ends_the_run_in_one_sentence(tmp_path: Path) -> None:
    _, outcome, kept = drive(tmp_path, dying((11, "a")))
    assert outcome.status == "failed" and len(outcome.tokens) == 11
    assert str(outcome.error) == "device a: its worker ended with code -9 at token 11"
    assert kept["faults"][0]["recovering"] is False and not kept["recoveries"]


@pytest.mark.parametrize("keys", [{"recovery": {"on_exit": "fail"}}, {"weights": "shipped"}])
def test_without_recovery_or_a_second_copy_of_the_weights_a_loss_ends_the_run(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    _, outcome, _ = drive(tmp_path, dying((11, "b"), **keys))
    assert outcome.status == "failed"
    assert str(outcome.error) == "device b: its worker ended with code -9 at token 11"


def test_a_loss_after_which_nothing_fits_ends_the_run_and_its_tokens_are_kept(tmp_path: Path) -> None:
    placement = {"*": "b"}
    _, outcome, _ = drive(tmp_path, dying((11, "b"), policy="static", placement=placement))
    assert outcome.status == "failed" and len(outcome.tokens) == 11
    assert str(outcome.error).startswith("the loss of b cannot be survived: policy static leaves head(0,0) on a lost")


def test_on_the_time_clock_a_device_dies_in_the_middle_of_a_token(tmp_path: Path) -> None:
    _, _, calm = drive(tmp_path / "calm", dying(trace_clock="time"))
    middle = next(row["start_s"] + row["latency_s"] / 2 for row in calm["tokens"] if row["step"] == 9)
    _, outcome, kept = drive(tmp_path / "dying", dying((middle, "b"), trace_clock="time"))
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS
    (fault,), (row,) = kept["faults"], kept["recoveries"]
    assert fault["t_s"] == pytest.approx(middle) and fault["step"] == row["step"] == 9


def test_the_summary_counts_what_was_lost(tmp_path: Path) -> None:
    summary, _ = simulated(tmp_path, dying((11, "b")))
    assert summary["lost_devices"] == ["b"]
    assert summary["downtime_s"] > summary["recovery_s"] > 0
    summary, _ = simulated(tmp_path / "calm", dying())
    assert (summary["lost_devices"], summary["downtime_s"], summary["recovery_s"]) == ([], 0.0, 0.0)


class Spread(Forgetful):
    """Places the FFNs on all devices that have room, in turn."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The same for the same devices."""
        names = [view.name for view in observation.devices if view.available_bytes > 2**20]
        ffns = {f"ffn({layer})": names[layer % len(names)] for layer in range(observation.shape.layers)}
        ends = {f"head(0,{n})": name for n, name in enumerate(names)}
        return Placement(expand_patterns(observation, {"*": "a"} | ffns | ends))


def used(kept: dict[str, Any], epoch: int) -> set[str]:
    """The devices that hold something in an epoch."""
    return {row["device"] for row in kept["placements"] if row["epoch"] == epoch}


def test_a_device_that_is_started_anew_is_offered_to_the_policy_at_the_next_decision(tmp_path: Path) -> None:
    of = struck((3, "b", "kill"), (10, "b", "restart"))
    _, outcome, kept = drive(tmp_path, of, Spread())
    assert outcome.status == "done" and [row["step"] for row in kept["tokens"]] == list(range(TOKENS))
    epochs = {row["epoch"]: row["step"] for row in kept["decisions"]}
    assert all("b" not in used(kept, epoch) for epoch, step in epochs.items() if 3 <= step < 16)
    assert "b" in used(kept, max(epoch for epoch, step in epochs.items() if step >= 16))


def test_a_device_may_die_again_after_it_has_returned(tmp_path: Path) -> None:
    of = struck(
        (3, "b", "kill"), (3, "b", "restart"), (13, "b", "kill"), (14, "b", "restart"), (20, "b", "kill"),
    )  # fmt: skip
    _, outcome, kept = drive(tmp_path, of, Spread())
    assert outcome.status == "done", outcome.error
    assert [(row["device"], row["step"]) for row in kept["faults"]] == [("b", 3), ("b", 13), ("b", 20)]


def test_on_the_time_clock_a_device_dies_and_returns_at_its_time(tmp_path: Path) -> None:
    of = struck((0.02, "b", "kill"), (0.05, "b", "restart"), trace_clock="time")
    _, outcome, kept = drive(tmp_path, of, Spread())
    assert outcome.status == "done", outcome.error
    assert [row["device"] for row in kept["faults"]] == ["b"] and len(kept["tokens"]) == TOKENS
    last = kept["placements"][-1]["epoch"]
    assert "b" in used(kept, last)


def test_on_the_time_clock_a_device_may_die_at_the_very_beginning(tmp_path: Path) -> None:
    _, outcome, kept = drive(tmp_path, struck((0.0, "b", "kill"), trace_clock="time"))
    assert outcome.status == "done", outcome.error
    assert [(row["device"], row["step"]) for row in kept["faults"]] == [("b", 0)]
    assert [row["rows"] for row in kept["recoveries"]] == [0], "the prefill begins anew"


def test_a_device_that_dies_while_it_returns_is_started_anew_by_a_later_row(tmp_path: Path) -> None:
    of = struck((1, "b", "kill"), (2, "b", "restart"), (5, "b", "kill"), (5, "b", "restart"))
    _, outcome, kept = drive(tmp_path, of, Spread())
    assert outcome.status == "done" and "b" in used(kept, kept["placements"][-1]["epoch"])


def paused(off: float, **recovery: Any) -> Any:
    """The quick start, whose device b is paused from 0.05 s on."""
    pauses = (Change(at, "device/b", "pause", on) for at, on in ((0.05, 1.0), (off, 0.0)))
    return changed(*pauses, trace_clock="time", recovery=recovery)


def test_a_pause_is_a_loss_only_after_the_time_that_the_experiment_gives(tmp_path: Path) -> None:
    for of in (paused(30.0), paused(2.9, suspect_after="3 s")):
        _, outcome, kept = drive(tmp_path, of)
        assert outcome.status == "done" and not kept["faults"]
    _, outcome, kept = drive(tmp_path, paused(30.0, suspect_after="3 s"))
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS
    (fault,) = kept["faults"]
    assert (fault["device"], fault["cause"]) == ("b", "hung") and fault["t_s"] == pytest.approx(3.05)


class AllAtTheSource(Forgetful):
    """Leaves the other devices without blocks."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Always the same."""
        return Placement(expand_patterns(observation, {"*": "a"}))


def test_a_paused_device_says_nothing_so_the_next_boundary_waits_for_it(tmp_path: Path) -> None:
    _, _, calm = drive(tmp_path / "calm", dying(trace_clock="time"), AllAtTheSource())
    begin_s = calm["tokens"][4]["start_s"]
    changes = tuple(Change(at, "device/b", "pause", on) for at, on in ((begin_s, 1.0), (1.0, 0.0)))
    _, outcome, kept = drive(tmp_path, changed(*changes, trace_clock="time"), AllAtTheSource())
    assert outcome.status == "done", outcome.error
    starts = [row["start_s"] for row in kept["tokens"]]
    assert starts[INTERVAL - 1] == calm["tokens"][INTERVAL - 1]["start_s"] < 1.0 <= starts[INTERVAL]


class Careless(AllAtTheSource):
    """Places blocks of no size on device d, whether it lives or not."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Device d adds up what the shards of the first FFN send, in every other decision."""
        odd = observation.tokens_done // INTERVAL % 2
        return Placement(expand_patterns(observation, {"*": "a"} | ({"sum(0,ffn)": "d"} if odd else {})))


def test_a_block_of_no_size_that_a_policy_places_on_a_lost_device_ends_no_run(tmp_path: Path) -> None:
    of = dying((3, "d"), model={"preset": "tiny-llama"}, partition={"ffn_shards": 2})
    _, outcome, kept = drive(tmp_path, of, Careless())
    assert outcome.status == "done", outcome.error
    assert {row["device"] for row in kept["placements"]} == {"a"}


@pytest.mark.parametrize(("target", "quantity", "value"), [("device/b", "pause", 1.0), ("link/b", "up", 0.0)])
def test_what_would_hold_up_a_run_from_time_0_on_comes_once_all_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, quantity: str, value: float
) -> None:
    begun: list[tuple[bool, bool]] = []  # at each change: whether tokens are under way, whether something is held up

    def apply(fleet: Any, state: Any) -> Any:
        held = state.devices["b"].paused or not state.links["b"].up_bps
        begun.append((fleet._plan is not None, held))
        return applied(fleet, state)

    applied = SimFleet.apply
    monkeypatch.setattr(SimFleet, "apply", apply)
    changes = (Change(0.0, target, quantity, value), Change(0.5, target, quantity, 1.0 - value))
    _, outcome, _ = drive(tmp_path, changed(*changes, trace_clock="time"), AllAtTheSource())
    assert outcome.status == "done", outcome.error
    assert begun[:2] == [(False, False), (True, True)]


def test_what_has_arrived_at_a_paused_device_does_not_arrive_again_when_conditions_change(tmp_path: Path) -> None:
    changes = (
        Change(0.0, "device/d", "kill", 1.0), Change(0.001, "device/b", "pause", 1.0),
        Change(0.2, "link/c", "up", 1e7), Change(0.5, "device/b", "pause", 0.0),
    )  # fmt: skip
    _, outcome, kept = drive(tmp_path, changed(*changes, trace_clock="time"))
    assert outcome.status == "done", outcome.error
    assert kept["recoveries"][0]["committed_s"] >= 0.5, "until then nobody knows that b has all"


def test_a_device_that_is_started_anew_while_it_is_paused_returns_when_it_goes_on(tmp_path: Path) -> None:
    rows = ((0.001, "pause", 1.0), (0.002, "kill", 1.0), (0.003, "restart", 1.0), (5.0, "pause", 0.0))
    changes = (Change(at, "device/b", what, value) for at, what, value in rows)
    _, outcome, kept = drive(tmp_path, changed(*changes, trace_clock="time", recovery={"suspect_after": "1 s"}))
    assert outcome.status == "done", outcome.error
    assert [(row["device"], row["cause"]) for row in kept["faults"]] == [("b", "exit")]


@pytest.mark.parametrize("on_oom", ["recompute", "fail"])
def test_a_device_over_its_budget_is_a_loss_where_the_experiment_survives_that(tmp_path: Path, on_oom: str) -> None:
    squeeze = Change(8.0, "device/b", "memory", 65536.0)
    _, outcome, kept = drive(tmp_path, changed(squeeze, grace=0, recovery={"on_oom": on_oom}))
    assert (outcome.status, len(outcome.tokens)) == (("done", TOKENS) if on_oom == "recompute" else ("oom", 8))
    assert [(row["device"], row["cause"]) for row in kept["faults"]] == (
        [("b", "oom")] if on_oom == "recompute" else []
    )


class Moves(Forgetful):
    """Has all on `a` at first, and half of the heads on `c` from the second decision on; `b` has an FFN."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The same for the same tokens and devices."""
        ffn = {"ffn(0)": "b"} if observation.device("b").available_bytes > 2**20 else {}
        heads = {"head(*,0)": "c"} if observation.tokens_done >= INTERVAL else {}
        return Placement(expand_patterns(observation, {"*": "a"} | ffn | heads))


def test_a_migration_that_a_loss_cuts_short_is_told_as_aborted(tmp_path: Path) -> None:
    _, _, calm = drive(tmp_path / "calm", dying(trace_clock="time"), Moves())
    middle = (calm["migrations"][0]["start_s"] + calm["migrations"][0]["last_byte_s"]) / 2
    _, outcome, kept = drive(tmp_path / "dying", dying((middle, "b"), trace_clock="time"), Moves())
    assert outcome.status == "done" and kept["faults"][0]["t_s"] == pytest.approx(middle)
    (log,) = (tmp_path / "dying").glob("*/events.jsonl")
    told = [row["kind"] for row in read_lines(log) if row["kind"].startswith("migration_")]
    assert told == ["migration_begin", "migration_aborted"], "the recovery moves what was to move"
    assert next(row["outcome"] for row in kept["migrations"]) == "aborted"


class Together(Watched):
    """The worker of c ends while token 11 is reported, and that is heard first."""

    def events(self, timeout_s: float) -> Any:
        found = super().events(timeout_s)
        if any(isinstance(event, Token) and event.step == 11 for _, event in found):
            self.kill("c")
            found = [*super().events(0.0), *found]
        return found


def test_a_recovery_has_the_time_of_its_token_also_if_that_comes_with_another_loss(tmp_path: Path) -> None:
    _, outcome, kept = drive(tmp_path, dying((11, "b")), fleet=Together)
    assert outcome.status == "done"
    assert [(row["step"], row["devices"], row["token_s"] is None) for row in kept["recoveries"]] == [
        (11, "b", False), (12, "b,c", False),
    ]  # fmt: skip
