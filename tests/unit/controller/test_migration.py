"""The migration machine: any order of events ends in done or aborted, and a block never has two owners or none."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.controller.migration import (
    AbortOn,
    CommitOn,
    Instruction,
    Migration,
    Move,
    PrepareOn,
    TransferFrom,
)
from testbed.errors import RunFailed
from testbed.placement.blocks import Block

DEVICES = ("a", "b", "c", "d")


def moves_from(where: list[tuple[str, str, int]]) -> list[Move]:
    """Moves of distinct blocks; those within one device are none."""
    return [
        Move(Block("head", 0, index), source, target, size)
        for index, (source, target, size) in enumerate(where)
        if source != target
    ]


places = st.tuples(st.sampled_from(DEVICES), st.sampled_from(DEVICES), st.sampled_from([0, 10, 5000]))
move_lists = st.lists(places, max_size=6).map(moves_from)


@dataclass
class Device:
    """A worker as the controller sees it: it answers what it is told, some time."""

    name: str
    held: set[Block]
    epoch: int = 0
    incoming: dict[Block, Move] = field(default_factory=dict)
    whole: set[Block] = field(default_factory=set)
    unacknowledged: set[Block] = field(default_factory=set)
    sending: bool = False


class World:
    """Devices, and messages on their way to and from the controller; each device's keep their order."""

    def __init__(self, moves: list[Move], seed: int, trouble: float) -> None:
        self.chance, self.trouble = random.Random(seed), trouble
        self.moves = moves
        self.migration = Migration(1, DEVICES, moves)
        self.devices = {name: Device(name, {move.block for move in moves if move.source == name}) for name in DEVICES}
        self.told: dict[str, deque[Instruction]] = defaultdict(deque)
        self.said: dict[str, deque[tuple[str, str]]] = defaultdict(deque)
        self.travelling: list[Move] = []
        self.loading: list[Move] = []
        self.committed_to: list[str] = []

    def run(self) -> None:
        self.give(self.migration.begin())
        while True:
            steps: list[Callable[[], None]] = [lambda d=name: self.work(d) for name in DEVICES if self.told[name]]
            steps += [lambda d=name: self.hear(d) for name in DEVICES if self.said[name]]
            steps += [lambda m=move: self.arrive(m) for move in self.travelling]
            steps += [lambda m=move: self.load(m) for move in self.loading]
            if not steps:
                return
            if self.migration.phase in ("preparing", "transferring") and self.chance.random() < self.trouble / 10:
                self.give(self.migration.abort("it takes too long"))
            else:
                self.chance.choice(steps)()
            self.check()

    def give(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, CommitOn):
                self.committed_to.append(instruction.device)
            self.told[instruction.device].append(instruction)

    def work(self, name: str) -> None:
        device, instruction = self.devices[name], self.told[name].popleft()
        match instruction:
            case PrepareOn(_, moves):
                if self.chance.random() < self.trouble:
                    self.said[name].append(("refused", "no room"))
                    return
                device.incoming = {move.block: move for move in moves}
                self.loading += moves
                self.said[name].append(("prepared", ""))
            case TransferFrom(_, moves):
                device.sending = True
                device.unacknowledged = {move.block for move in moves}
                self.travelling += moves
            case CommitOn(_, drop):
                assert device.whole == set(device.incoming), "committed before everything was there"
                assert set(drop) <= device.held
                device.held = (device.held - set(drop)) | device.whole
                device.epoch = 1
                self.said[name].append(("committed", ""))
            case AbortOn():
                device.incoming, device.whole, device.sending = {}, set(), False
                device.unacknowledged = set()
                self.loading = [move for move in self.loading if move.destination != name]
                self.said[name].append(("aborted", ""))

    def load(self, move: Move) -> None:
        """The weights of one block are in memory."""
        self.loading.remove(move)
        if not move.payload_bytes:
            self.complete(move)

    def arrive(self, move: Move) -> None:
        """One block's payload reaches its destination, whole or damaged."""
        self.travelling.remove(move)
        target, source = self.devices[move.destination], self.devices[move.source]
        if move.block not in target.incoming:
            return  # of an epoch that was aborted here
        if self.chance.random() < self.trouble:
            self.said[target.name].append(("refused", "damaged"))
            return
        self.complete(move)
        if source.sending:
            source.unacknowledged.discard(move.block)
            if not source.unacknowledged:
                source.sending = False
                self.said[source.name].append(("sent", ""))

    def complete(self, move: Move) -> None:
        target = self.devices[move.destination]
        target.whole.add(move.block)
        if target.whole == set(target.incoming):
            self.said[target.name].append(("arrived", ""))

    def hear(self, name: str) -> None:
        kind, reason = self.said[name].popleft()
        answer = getattr(self.migration, kind)
        self.give(answer(name, reason) if kind == "refused" else answer(name))

    def check(self) -> None:
        """Under the old epoch the source has the block, under the new one the destination; nobody else."""
        for move in self.moves:
            owners = [device.name for device in self.devices.values() if move.block in device.held]
            source, target = self.devices[move.source], self.devices[move.destination]
            assert set(owners) <= {move.source, move.destination}
            assert (source.epoch == 0) == (move.source in owners)
            assert (target.epoch == 1) == (move.destination in owners)
            if not self.committed_to:
                assert owners == [move.source]


@given(moves=move_lists, seed=st.integers(0, 10**6), trouble=st.sampled_from([0.0, 0.0, 0.1, 0.5]))
def test_any_interleaving_ends_in_done_or_aborted_with_one_owner_for_each_block(
    moves: list[Move], seed: int, trouble: float
) -> None:
    world = World(moves, seed, trouble)
    world.run()
    migration = world.migration
    assert migration.over and not migration.silent
    if migration.phase == "done":
        assert sorted(world.committed_to) == list(DEVICES), "every device switches exactly once"
        assert all(device.epoch == 1 for device in world.devices.values())
        for move in moves:
            assert move.block in world.devices[move.destination].held
            assert move.block not in world.devices[move.source].held
    else:
        assert migration.reason
        assert not world.committed_to, "an aborted migration has committed nowhere"
        for move in moves:
            assert move.block in world.devices[move.source].held
        assert not any(device.incoming or device.epoch for device in world.devices.values())
    if not trouble:
        assert migration.phase == "done"


def test_both_ends_are_reached_by_these_interleavings() -> None:
    """Otherwise the property above could not fail."""
    moves = moves_from([("a", "b", 10), ("a", "c", 0), ("b", "c", 5000), ("c", "a", 10)])
    ends = set()
    for seed in range(200):
        world = World(moves, seed, 0.1)
        world.run()
        ends.add((world.migration.phase, world.migration.reason))
    reasons = {"no room", "damaged", "it takes too long"}
    assert ends == {("done", ""), *(("aborted", reason) for reason in reasons)}


@given(
    moves=move_lists,
    events=st.lists(
        st.tuples(st.sampled_from(["prepared", "sent", "arrived", "refused", "aborted", "committed", "abort", "begin"]),
                  st.sampled_from([*DEVICES, "ghost"])), max_size=25,
    ),
)  # fmt: skip
def test_events_that_cannot_happen_raise_with_the_story_and_never_commit(
    moves: list[Move], events: list[tuple[str, str]]
) -> None:
    migration = Migration(3, DEVICES, moves)
    instructions = migration.begin()
    heard: list[str] = []
    for kind, device in events:
        try:
            if kind == "begin":
                instructions += migration.begin()
            elif kind == "abort":
                instructions += migration.abort("late")
            else:
                instructions += getattr(migration, kind)(device, *(["no"] if kind == "refused" else []))
        except RunFailed as error:
            assert str(error).startswith(
                "migration to epoch 3: "
            ) and "cannot happen now; so far: begin in idle" in str(error)
            break
        heard.append(f"{kind} {device}")
    if any(isinstance(instruction, CommitOn) for instruction in instructions):
        for move in moves:
            assert f"arrived {move.destination}" in heard
            assert f"sent {move.source}" in heard or not any(
                other.payload_bytes for other in moves if other.source == move.source
            )
        assert not any(isinstance(instruction, AbortOn) for instruction in instructions)
        assert [i.device for i in instructions if isinstance(i, CommitOn)] == list(DEVICES)


def started(*where: tuple[str, str, int]) -> Migration:
    migration = Migration(2, DEVICES, moves_from(list(where)))
    migration.begin()
    return migration


def test_a_migration_without_moves_commits_at_once_everywhere() -> None:
    migration = Migration(2, DEVICES, [])
    assert migration.begin() == [CommitOn(device, ()) for device in DEVICES]
    for device in DEVICES:
        assert not migration.over
        migration.committed(device)
    assert migration.phase == "done"


def test_nothing_is_sent_before_every_destination_has_made_room() -> None:
    migration = started(("a", "b", 10), ("a", "c", 10))
    assert migration.prepared("b") == []
    assert migration.prepared("c") == [TransferFrom("a", tuple(migration.moves))]


def test_blocks_without_payload_are_not_asked_for_and_may_be_whole_early() -> None:
    migration = started(("a", "b", 0), ("a", "c", 0))
    assert migration.prepared("b") == []
    assert migration.arrived("b") == []
    assert migration.prepared("c") == []
    commits = migration.arrived("c")
    drop = tuple(move.block for move in migration.moves)
    assert commits == [CommitOn("a", drop), CommitOn("b", ()), CommitOn("c", ()), CommitOn("d", ())]


@pytest.mark.parametrize("prepared", [0, 1, 2])
def test_a_refusal_before_the_commit_aborts_on_every_device_that_took_part(prepared: int) -> None:
    migration = started(("a", "b", 10), ("a", "c", 10))
    for device in "bc"[:prepared]:
        migration.prepared(device)
    assert migration.refused("c", "no room for it") == [AbortOn("a"), AbortOn("b"), AbortOn("c")]
    assert migration.refused("b", "nor for this") == []
    assert migration.prepared("b") == migration.arrived("b") == migration.sent("a") == []  # they crossed the abort
    for device in "abc":
        assert not migration.over
        migration.aborted(device)
    assert (migration.phase, migration.reason) == ("aborted", "no room for it")


def test_there_is_no_way_back_after_the_commit() -> None:
    migration = started(("a", "b", 10))
    migration.prepared("b")
    migration.arrived("b")
    assert len(migration.sent("a")) == 4
    with pytest.raises(RunFailed, match=r"'abort \(late\)' cannot happen now"):
        migration.abort("late")


@pytest.mark.parametrize(
    "again", [lambda m: m.prepared("b"), lambda m: m.prepared("d"), lambda m: m.arrived("c"), lambda m: m.arrived("a")]
)
def test_an_answer_that_nobody_waits_for_is_refused(again: Callable[[Migration], object]) -> None:
    migration = started(("a", "b", 0), ("a", "c", 0))
    migration.prepared("b")
    migration.arrived("b")
    with pytest.raises(RunFailed, match="so far: begin in idle; prepared by b in preparing; arrived b in preparing; "):
        again(migration)


def test_what_is_still_missing_can_be_told() -> None:
    migration = started(("a", "b", 10), ("c", "b", 10))
    assert migration.silent == ["b"]
    migration.prepared("b")
    assert migration.silent == ["arrived b", "sent a", "sent c"]
