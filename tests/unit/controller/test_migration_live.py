"""The migration machine while tokens go on, in any order of answers and with an abort at any moment."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from testbed.controller.migration import (
    AbortOn,
    CommitOn,
    CopyFrom,
    FinishOn,
    HaltSource,
    Instruction,
    Migration,
    Move,
    PrepareOn,
)
from testbed.errors import RunFailed
from testbed.placement.blocks import Block

DEVICES = ("a", "b", "c")


def head(index: int, source: str, target: str, size: int = 10) -> Move:
    return Move(Block("head", 0, index), source, target, size)


@dataclass
class World:
    """Workers that answer as they are told; each one's answers keep their order, and any device may be the next."""

    migration: Migration
    said: dict[str, deque[tuple[str, ...]]] = field(default_factory=lambda: {name: deque() for name in (*DEVICES, "")})
    committed: list[str] = field(default_factory=list)
    halted: bool = False
    finished: set[str] = field(default_factory=set)

    def give(self, instructions: list[Instruction]) -> None:
        moves = self.migration.moves
        for instruction in instructions:
            match instruction:
                case PrepareOn(device):
                    self.said[device] += [("prepared", device), ("loaded", device)]
                case CopyFrom(device):
                    self.said[device].append(("caught_up", device))
                case HaltSource():
                    self.said[""].append(("halted",))  # of the source, whichever it is
                case FinishOn(device):
                    assert self.halted, "the last rows are asked for while tokens may still come"
                    self.finished.add(device)
                    if any(move.source == device and move.payload_bytes for move in moves):
                        self.said[device].append(("sent", device))
                    if any(move.destination == device for move in moves):
                        self.said[device].append(("arrived", device))
                case CommitOn(device):
                    self.committed.append(device)
                    self.said[device].append(("committed", device))
                case AbortOn(device):
                    self.said[device].append(("aborted", device))

    def hear(self, name: str) -> None:
        kind, *device = self.said[name].popleft()
        self.halted |= kind == "halted"
        self.give(getattr(self.migration, kind)(*device))

    def followers(self) -> Iterator[World]:
        for name, answers in self.said.items():
            if answers:
                following = copy.deepcopy(self)
                following.hear(name)
                yield following
        if self.migration.can_be_aborted:
            following = copy.deepcopy(self)
            following.give(following.migration.abort("it takes too long"))
            yield following

    @property
    def key(self) -> str:
        return repr((self.migration.phase, self.migration.silent, self.migration._early, self.said, self.committed))


@pytest.mark.parametrize(
    "moves",
    [
        [head(0, "a", "b")],
        [head(0, "a", "b"), head(1, "a", "c")],
        [head(0, "a", "b"), head(1, "b", "a"), head(2, "c", "a", 0)],
        [head(0, "a", "b", 0)],
    ],
)
def test_every_order_of_answers_ends_committed_everywhere_or_aborted_nowhere_committed(moves: list[Move]) -> None:
    first = World(Migration(1, DEVICES, moves, live=True))
    first.give(first.migration.begin())
    seen, waiting, ends = {first.key}, deque([first]), set()
    while waiting:
        world = waiting.popleft()
        followers = list(world.followers())
        if not followers:
            migration = world.migration
            assert migration.over and not migration.silent, "a state without an exit"
            assert (migration.phase == "done") == (world.committed == list(DEVICES))
            assert migration.phase == "done" or not world.committed
            ends.add(migration.phase)
        for following in followers:
            if following.key not in seen:
                seen.add(following.key)
                waiting.append(following)
    assert ends == {"done", "aborted"} and len(seen) > 10


def copying(*moves: Move) -> Migration:
    migration = Migration(2, DEVICES, moves, live=True)
    migration.begin()
    for device in sorted({move.destination for move in moves}):
        migration.prepared(device)
    return migration


def test_the_source_halts_only_when_every_copy_has_caught_up_and_all_weights_are_there() -> None:
    migration = copying(head(0, "a", "b"), head(1, "c", "b"))
    assert migration.phase == "copying" and migration.silent == ["caught up a", "caught up c", "loaded b"]
    assert migration.caught_up("a") == migration.loaded("b") == []
    assert migration.caught_up("c") == [HaltSource()]
    assert migration.halted() == [FinishOn("a"), FinishOn("b"), FinishOn("c")]
    assert migration.silent == ["arrived b", "sent a", "sent c"]


def test_weights_may_be_there_before_all_are_prepared() -> None:
    migration = Migration(2, DEVICES, [head(0, "a", "b"), head(1, "a", "c")], live=True)
    migration.begin()
    assert migration.prepared("b") == migration.loaded("b") == []
    (order,) = migration.prepared("c")
    assert isinstance(order, CopyFrom) and migration.silent == ["caught up a", "loaded c"]


def test_blocks_that_send_nothing_wait_for_their_weights_alone() -> None:
    migration = copying(head(0, "a", "b", 0))
    assert migration.silent == ["loaded b"]
    assert migration.loaded("b") == [HaltSource()]
    assert migration.halted() == [FinishOn("b")]


def test_a_refusal_while_copying_leaves_the_old_placement() -> None:
    migration = copying(head(0, "a", "b"))
    assert migration.refused("b", "a piece arrived damaged") == [AbortOn("a"), AbortOn("b")]
    assert migration.caught_up("a") == migration.loaded("b") == migration.halted() == []
    migration.aborted("a")
    migration.aborted("b")
    assert (migration.phase, migration.reason) == ("aborted", "a piece arrived damaged")


@pytest.mark.parametrize("early", ["halted", "caught_up"])
def test_an_answer_before_its_time_is_refused(early: str) -> None:
    migration = Migration(2, DEVICES, [head(0, "a", "b")], live=True)
    migration.begin()
    with pytest.raises(RunFailed, match="cannot happen now"):
        getattr(migration, early)(*(["a"] if early == "caught_up" else []))
