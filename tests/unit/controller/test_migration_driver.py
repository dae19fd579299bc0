"""A migration carried out: instructions become commands, answers of this epoch count, and silence has an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from testbed.controller.migration import Migration, Move
from testbed.controller.migration_driver import MigrationDriver, MigrationResult
from testbed.errors import RunFailed
from testbed.placement.blocks import Block
from testbed.placement.plan import Plan
from testbed.transport.messages import (
    Abort,
    Aborted,
    Arrival,
    Arrived,
    Commit,
    Committed,
    Incoming,
    Prepare,
    Prepared,
    Refused,
    Sent,
    Transfer,
)

DEVICES = ("a", "b", "c")
HEAD, FFN = Block("head", 0, 1), Block("ffn", 0)
MOVES = (Move(HEAD, "a", "b", 100), Move(FFN, "a", "b", 0))
PLAN = Plan(7, "a", ())
ARRIVAL = Arrival("head(0,1)", "a", 100, 0, 1.0, 2.0, 3.0, 4.0)

Answers = Callable[[str, Any], Sequence[tuple[str, Any]]]


def willing(device: str, command: Any) -> Sequence[tuple[str, Any]]:
    """Every worker does as it is told."""
    match command:
        case Prepare():
            return [(device, Prepared(command.epoch))]
        case Transfer():
            return [("b", Arrived(command.epoch, [ARRIVAL])), (device, Sent(command.epoch))]
        case Commit():
            return [(device, Committed(command.plan.epoch, 0))]
        case Abort():
            return [(device, Aborted(command.epoch))]
    raise AssertionError(command)


class Scripted:
    """A fleet whose workers answer by a rule, with a clock that runs while nothing comes."""

    now_s = 100.0

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.commands: list[tuple[str, Any]] = []
        self.waiting: list[tuple[str, Any]] = []

    def send(self, device: str, command: Any) -> None:
        self.commands.append((device, command))
        self.waiting += self._answers(device, command)

    def wait(self, timeout_s: float) -> list[tuple[str, Any]]:
        found, self.waiting = self.waiting[:1], self.waiting[1:]
        if not found:
            self.now_s += min(timeout_s, 0.01) or 0.001
        return found

    def wall(self) -> float:
        return self.now_s

    def drive(self, moves: Sequence[Move], timeout_s: float) -> MigrationResult:
        storage = {"a": 1.0, "b": 2.0, "c": 3.0}
        driver = MigrationDriver(self.send, self.wall, Migration(7, DEVICES, moves), PLAN, 30, False, storage,
                                 timeout_s)  # fmt: skip
        driver.begin()
        return driver.run(self.wait)


def driven(answers: Answers, timeout_s: float = 5.0, moves: Sequence[Move] = MOVES) -> tuple[MigrationResult, Scripted]:
    fleet = Scripted(answers)
    return fleet.drive(moves, timeout_s), fleet


def test_a_migration_sends_each_worker_what_it_must_do_in_this_order() -> None:
    found, fleet = driven(willing)
    assert found.migration.phase == "done"
    incoming = [Incoming("head(0,1)", "a", 100), Incoming("ffn(0)", "a", 0)]
    assert fleet.commands == [
        ("b", Prepare(7, 30, incoming, False, 2.0)),
        ("a", Transfer(7, 30, [("head(0,1)", "b")], False)),
        ("a", Commit(PLAN, ["head(0,1)", "ffn(0)"])),
        ("b", Commit(PLAN, [])),
        ("c", Commit(PLAN, [])),
    ]
    assert found.arrivals == {"head(0,1)": ARRIVAL}


def test_answers_of_another_epoch_are_not_taken_for_this_one() -> None:
    def also_old(device: str, command: Any) -> Sequence[tuple[str, Any]]:
        if isinstance(command, Prepare):
            old = [Prepared(6), Arrived(6, []), Sent(6), Refused(6, "old"), Aborted(6), Committed(6, 0)]
            return [(device, event) for event in old] + [(device, Prepared(7))]
        return willing(device, command)

    assert driven(also_old)[0].migration.phase == "done"


def test_a_refusal_aborts_and_its_reason_is_kept() -> None:
    def full(device: str, command: Any) -> Sequence[tuple[str, Any]]:
        return [(device, Refused(7, "no room"))] if isinstance(command, Prepare) else willing(device, command)

    found, fleet = driven(full)
    assert (found.migration.phase, found.migration.reason) == ("aborted", "no room")
    assert [command for _, command in fleet.commands[1:]] == [Abort(7), Abort(7)]


def test_transfers_that_take_too_long_are_aborted_and_the_run_goes_on() -> None:
    def lost_on_the_way(device: str, command: Any) -> Sequence[tuple[str, Any]]:
        return [] if isinstance(command, Transfer) else willing(device, command)

    found, fleet = driven(lost_on_the_way, timeout_s=0.2)
    assert found.migration.phase == "aborted" and "took longer than" in found.migration.reason
    assert 0.2 <= fleet.wall() - found.started_s < 0.25


@pytest.mark.parametrize(
    ("deaf_to", "told"), [(Commit, "b gave no answer while committing"), (Abort, "while aborting")]
)
def test_a_worker_that_answers_neither_commit_nor_abort_ends_the_run_with_its_name(deaf_to: type, told: str) -> None:
    def deaf(device: str, command: Any) -> Sequence[tuple[str, Any]]:
        if isinstance(command, deaf_to) and device == "b":
            return []
        if isinstance(command, Transfer) and deaf_to is Abort:
            return []
        return willing(device, command)

    with pytest.raises(RunFailed, match=told) as caught:
        driven(deaf, timeout_s=0.2)
    assert "migration to epoch 7: b gave no answer" in str(caught.value)


def test_a_commit_sent_just_before_the_time_is_up_is_still_waited_for() -> None:
    class Slow(Scripted):
        ready_s = 0.0

        def wait(self, timeout_s: float) -> list[tuple[str, Any]]:
            if self.waiting and isinstance(self.waiting[0][1], Committed) and self.now_s < self.ready_s:
                self.now_s += 0.01
                return []
            if self.waiting and isinstance(self.waiting[0][1], Sent):
                self.now_s += 0.15
                self.ready_s = self.now_s + 0.15
            return super().wait(timeout_s)

    fleet = Slow(willing)
    assert fleet.drive(MOVES, timeout_s=0.2).migration.phase == "done"


def test_a_change_of_plan_alone_is_only_committed() -> None:
    found, fleet = driven(willing, moves=())
    assert found.migration.phase == "done"
    assert fleet.commands == [(device, Commit(PLAN, [])) for device in DEVICES]
