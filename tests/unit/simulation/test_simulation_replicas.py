"""Simulated runs whose devices keep replicas of one another's caches, and lose a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulated import PLAIN, drive, experiment
from thirds import Thirds, Turning

from testbed.controller.conditions import Conditions, observe
from testbed.placement.blocks import replica_bytes
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.replicas import affordable, replica_homes
from testbed.placement.observation import Policy
from testbed.simulation.moving import Moving
from testbed.traces import Change
from testbed.transport.messages import Prepare

TOKENS, INTERVAL, DIES_AT = 60, 8, 50
PROMPT = [7 * i % 1000 for i in range(450)]


def losing(
    method: str, *kills: tuple[float, str], budget: str = "1 GiB", changes: Sequence[Change] = (), **keys: Any
) -> Any:  # fmt: skip
    """gpt2 with 500 tokens of context at the loss."""
    device = {"streaming": "1.5 GB/s", "compute": "12 GFLOP/s", "memory": "1 GiB", "storage": "90 MB/s"}
    device |= {"link": {"rate": "100 Mbit/s", "delay": "0.3 ms"}}
    devices = {"a": device} | {name: device | {"memory": budget} for name in "bcd"}
    keys = PLAIN | {
        "prompt": {"ids": PROMPT}, "tokens": TOKENS, "interval": INTERVAL, "prefill_chunk": 150,
        "recovery": {"method": method}, "topology": {"shape": "star", "source": "a", "devices": devices},
    } | keys  # fmt: skip
    deaths = [Change(token, f"device/{name}", "kill", 1.0) for token, name in kills]
    return experiment("model.preset=gpt2", changes=(*changes, *deaths), **keys)


def recovery(out: Path, of: Any, policy: Policy | None = None) -> dict[str, Any]:
    _, outcome, kept = drive(out, of, policy or Thirds())
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS, outcome.error
    (row,) = kept["recoveries"]
    return dict(row)


def test_where_the_policy_moves_heads_away_from_their_replicas_rows_travel(tmp_path: Path) -> None:
    slow = recovery(tmp_path / "recompute", losing("recompute", (DIES_AT, "b")), Turning())
    of = losing("replicate", (DIES_AT, "b"))
    fleet, outcome, kept = drive(tmp_path, of, Turning())
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS, outcome.error
    (row,) = kept["recoveries"]
    assert row["rows"] <= 2 and row["rows"] + row["kept_rows"] == slow["rows"] and slow["kept_rows"] == 0
    moved = [one for one in kept["migrations"] if one["epoch"] == row["epoch"]]
    carried = [one for one in moved if one["bytes"]]
    assert {one["bytes"] for one in carried} == {512 * row["kept_rows"]}
    assert all(one["bytes"] or one["src"] == one["dst"] for one in moved), "what does not travel is there"
    assert {one["src"] for one in carried} == {"c", "d"}, "replicas and the caches of the living travel"
    (predicted_s,) = {one["predicted_s"] for one in moved}
    assert row["committed_s"] - row["decided_s"] == pytest.approx(predicted_s)
    took = [one["rebuilt_s"] - one["noticed_s"] for one in (slow, row)]
    assert took[1] < 0.3 * took[0]
    assert all(ledger <= 2**30 for _, ledgers in fleet.at_arrivals for ledger in ledgers.values())


def test_rows_do_not_travel_where_to_recompute_them_is_faster(tmp_path: Path) -> None:
    slow = [Change(DIES_AT - INTERVAL, "link/c", "up", 1e6)]  # from the boundary before the loss on
    for changes, kept in ((), True), (slow, False):
        row = recovery(tmp_path, losing("replicate", (DIES_AT, "b"), changes=changes), Turning(home=True))
        assert (row["kept_rows"] > 0) == kept


def test_a_recovery_whose_replicas_go_meanwhile_recomputes_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, told = Moving.prepare, list[int]()

    def squeezed(self: Moving, device: str, command: Prepare, *rest: Any) -> None:
        if command.rows and not told:
            told.append(command.epoch)
            for name in "cd":
                self._replicas.make_room(name)
        prepare(self, device, command, *rest)

    monkeypatch.setattr(Moving, "prepare", squeezed)
    row = recovery(tmp_path, losing("replicate", (DIES_AT, "b")), Turning())
    assert row["kept_rows"] == 0 and row["epoch"] > told[0]


@pytest.mark.parametrize("method", ["replicate", "auto"])
def test_where_lost_heads_go_to_their_replicas_only_the_newest_rows_are_recomputed(tmp_path: Path, method: str) -> None:
    slow, fast = (recovery(tmp_path / name, losing(name, (DIES_AT, "b"))) for name in ("recompute", method))
    assert (slow["rows"], slow["kept_rows"]) == (len(PROMPT) + DIES_AT - 1, 0)
    assert fast["rows"] + fast["kept_rows"] == slow["rows"] and fast["rows"] <= 2
    for row in (slow, fast):
        assert row["rebuilt_s"] - row["committed_s"] == pytest.approx(row["predicted_s"])
    took = [row["rebuilt_s"] - row["noticed_s"] for row in (slow, fast)]
    assert took[1] < 0.3 * took[0]


def test_replicas_count_in_ledgers_and_no_budget_is_exceeded(tmp_path: Path) -> None:
    of = losing("replicate")
    fleet, outcome, _ = drive(tmp_path, of, Thirds())
    assert outcome.status == "done"
    plain, _, _ = drive(tmp_path / "plain", losing("recompute"), Thirds())
    length = len(PROMPT) + TOKENS - 1
    more = sum(fleet.at_tokens[-1][2][name] - plain.at_tokens[-1][2][name] for name in "abcd")
    assert more == 144 * replica_bytes(of.shape, length)
    assert all(ledger <= 2**30 for _, _, ledgers in fleet.at_tokens for ledger in ledgers.values())


def test_a_replica_has_a_home_only_where_there_is_memory_until_the_runs_end() -> None:
    of = losing("replicate")
    truth = observe(of, Conditions(of), len(PROMPT), 9)
    placement = Thirds().decide(truth, None)
    size = replica_bytes(of.shape, len(PROMPT) + TOKENS - 1)
    needs = device_needs(truth, placement, len(PROMPT) + TOKENS - 1)
    rooms = {"a": 0, "b": 5 * size, "c": 50 * size, "d": 7 * size - 1}
    views = [replace(view, available_bytes=needs[view.name] + rooms[view.name]) for view in truth.devices]
    tight = replace(truth, devices=tuple(views))
    homes = replica_homes(tight, placement, {})
    assert {name: list(homes.values()).count(name) for name in "abcd"} == {"a": 0, "b": 5, "c": 50, "d": 6}
    assert all(placement.devices[block] not in (home, "a") for block, home in homes.items())
    assert replica_homes(tight, placement, homes) == homes, "what is there stays"
    without_c = replica_homes(tight, placement, homes, gone=["c"])
    assert set(without_c.values()) == {"b", "d"}


def test_a_second_loss_is_survived_with_the_replicas_that_were_made_since(tmp_path: Path) -> None:
    _, outcome, kept = drive(tmp_path, losing("replicate", (20, "b"), (DIES_AT, "c")), Thirds())
    assert outcome.status == "done" and len(kept["tokens"]) == TOKENS, outcome.error
    first, second = kept["recoveries"]
    assert first["kept_rows"] > 0 and second["kept_rows"] > 0


def test_a_loss_before_replicas_are_whole_recomputes_what_is_missing(tmp_path: Path) -> None:
    row = recovery(tmp_path, losing("replicate", (3, "b")))
    assert row["rows"] > 0 and row["rows"] + row["kept_rows"] == len(PROMPT) + 2
    assert row["rows"] > 10


def test_auto_keeps_no_replicas_whose_new_rows_are_too_much_for_a_link() -> None:
    of = losing("auto")
    truth = observe(of, Conditions(of), len(PROMPT), 9)
    placement = Thirds().decide(truth, None)
    homes = {block: "c" for block, owner in placement.devices.items() if owner in "bd"}
    assert affordable(truth, placement, homes) == homes
    links = {name: replace(link, up_bps=2e6, down_bps=2e6) for name, link in truth.links.items() if name != "a"}
    assert not affordable(replace(truth, links=links | {"a": truth.links["a"]}), placement, homes)
