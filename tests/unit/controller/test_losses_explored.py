"""All courses of a small run with two losses and a return are explored, breadth first.

Three devices generate two tokens and move a block between them; b and c may die at any moment, and one that has died
may be started anew, and die again. From the first token on, a has a replica of the moving block's cache; instead of a
return, it may have to drop it in a recovery. Workers are modelled: they answer in order, and messages of different
devices come in any order. A cache is whole or not. The controller is the real pure code: `DeviceState`, `Migration`
and `reconciling`, in the order in which `recovery` calls it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from testbed.controller.device_state import DeviceState, Recover
from testbed.controller.migration import AbortOn, CommitOn, Instruction, Migration, Move, PrepareOn, TransferFrom
from testbed.controller.reconciling import adopted, drops, loads, present, whole_rows, with_rows
from testbed.placement.blocks import Block, Placement

NAMES = ("a", "b", "c")
SOURCE = "a"
BLOCKS = tuple(Block("head", 0, index) for index in range(3))
FIRST = dict(zip(BLOCKS, NAMES, strict=True))
MOVING = BLOCKS[1]  # from b to c, after the first token
TOKENS = 2
FAULTS = 2
RETURNS = 1  # or a squeeze that costs a its replica

Words = tuple[Any, ...]


def shown(things: Iterable[Any]) -> list[str]:
    """The same text for equal sets."""
    return sorted(map(str, things))


@dataclass
class Worker:
    """A device as far as a loss concerns it."""

    held: frozenset[Block]
    plan: Placement
    incoming: frozenset[Block] = frozenset()
    missing: frozenset[Block] = frozenset()  # of the incoming ones
    whole: frozenset[Block] = frozenset()  # blocks, incoming ones too, whose caches have all rows
    replicas: frozenset[Block] = frozenset()  # of other devices' caches, with all rows
    taking: int = -1  # the epoch of what comes in
    halted: bool = False
    alive: bool = True


@dataclass
class World:
    """One moment: workers, messages on their way, and what the controller knows."""

    workers: dict[str, Worker]
    placement: Placement
    states: dict[str, DeviceState]
    told: dict[str, tuple[Words, ...]] = field(default_factory=lambda: dict.fromkeys(NAMES, ()))
    said: dict[str, tuple[Words, ...]] = field(default_factory=lambda: dict.fromkeys(NAMES, ()))
    faults: int = FAULTS
    returns: int = RETURNS
    generated: int = 0  # at the source
    goal: int = 0  # at the source
    rebuilding: bool = False  # at the source
    done: int = 0
    epoch: int = 0
    phase: str = "generating"
    moved: bool = False
    migration: Migration | None = None
    wanted: Placement | None = None
    reports: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    kept: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)  # the replicas of those who reported
    rows: int | None = None  # as in `RunState.whole_rows`: 1 for whole caches, 0 for those that are to be recomputed

    def copy(self) -> World:
        migration = self.migration and replace(
            self.migration, _waiting=set(self.migration._waiting), _early=set(self.migration._early), _story=[]
        )
        return replace(
            self, workers={name: replace(worker) for name, worker in self.workers.items()}, migration=migration,
            states={name: DeviceState(name, state.state) for name, state in self.states.items()},
            told=dict(self.told), said=dict(self.said), reports=dict(self.reports), kept=dict(self.kept),
        )  # fmt: skip

    @property
    def key(self) -> str:
        moving = self.migration and (
            self.migration.epoch, self.migration.phase, sorted(self.migration._waiting), sorted(self.migration._early)
        )  # fmt: skip
        known = [(name, state.state) for name, state in self.states.items()]
        workers = [
            (
                *map(shown, (w.held, w.incoming, w.missing, w.whole, w.replicas)),
                shown(w.plan.devices.items()),
                w.plan.epoch,
                w.taking,
                w.halted,
                w.alive,
            )
            for w in self.workers.values()
        ]
        reports = [(name, shown(held), shown(self.kept[name])) for name, held in sorted(self.reports.items())]
        where = [placement and shown(placement.devices.items()) for placement in (self.placement, self.wanted)]
        return repr(
            (workers, known, self.told, self.said, self.faults, self.returns, self.rows, self.generated,
             self.goal, self.rebuilding, self.done, self.epoch, self.phase, self.moved, moving, reports, where)
        )  # fmt: skip

    # --- workers -----------------------------------------------------------------------------------------

    def say(self, device: str, *words: Any) -> None:
        self.said[device] = (*self.said[device], words)

    def tell(self, device: str, *words: Any) -> None:
        if self.workers[device].alive:
            self.told[device] = (*self.told[device], words)

    def work(self, device: str) -> None:
        """The device takes what it has been told next."""
        (kind, *words), *rest = self.told[device]
        self.told[device] = tuple(rest)
        me = self.workers[device]
        match kind:
            case "prepare":
                epoch, moves, rows = words
                if rows and any(move.source == device and move.block not in me.replicas for move in moves):
                    self.say(device, "refused", epoch)
                    return
                me.taking = epoch
                me.incoming = frozenset(move.block for move in moves)
                me.missing = frozenset(move.block for move in moves if move.payload_bytes)
                assert not me.incoming & me.held, "a block came to who has it"
                me.whole, me.replicas = me.whole | (me.incoming & me.replicas), me.replicas - me.incoming
                self.say(device, "prepared", me.taking)
                if not me.missing:
                    self.say(device, "arrived", me.taking)
            case "transfer":
                epoch, moves = words
                if any(move.block not in me.held | me.replicas for move in moves):
                    self.say(device, "refused", epoch)
                    return
                for move in moves:
                    assert move.block in me.whole | me.replicas, "rows are sent that are not there"
                    self.tell(move.destination, "chunk", epoch, move.block)
                self.say(device, "sent", epoch)
            case "chunk":
                epoch, block = words
                if epoch == me.taking and block in me.missing:
                    me.missing, me.whole = me.missing - {block}, me.whole | {block}
                    if not me.missing:
                        self.say(device, "arrived", epoch)
            case "commit":
                me.plan, drop = words
                me.held = (me.held | me.incoming) - frozenset(drop)
                me.whole &= me.held
                me.incoming, me.taking, me.halted = frozenset(), -1, False
                self.say(device, "committed", me.plan.epoch)
            case "interrupt":
                self.forget(me)
                me.halted = True
                if device == SOURCE:
                    self.rebuilding, self.goal = False, self.generated
                held = tuple(sorted(me.held))
                kept = tuple(sorted(me.replicas))
                self.say(device, "interrupted", words[0], held, kept, self.generated if device == SOURCE else 0)
            case "abort":
                self.forget(me)
                self.say(device, "aborted", words[0])
            case "decode":
                self.goal = words[0]
            case "rebuild":
                self.rebuilding = True

    def forget(self, me: Worker) -> None:
        me.incoming, me.missing, me.taking, me.whole = frozenset(), frozenset(), -1, me.whole & me.held

    def can_pass(self) -> bool:
        """Whether a pass comes through: all owners in the source's plan live and run the same plan."""
        plan = self.workers[SOURCE].plan
        users = {SOURCE, *plan.devices.values()}
        return all(
            worker.alive and not worker.halted and worker.plan.epoch == plan.epoch
            for worker in map(self.workers.__getitem__, users)
        )

    def make_pass(self) -> None:
        """The source ends a pass, which gives a token or fills the caches."""
        plan = self.workers[SOURCE].plan
        assert all(block in self.workers[device].held for block, device in plan.devices.items()), "a block is nowhere"
        if self.rebuilding or not self.generated:
            for worker in self.workers.values():
                worker.whole |= {block for block in worker.held if self.workers[plan.devices[block]] is worker}
        assert all(block in self.workers[device].whole for block, device in plan.devices.items()), "rows are missing"
        if self.rebuilding:
            self.rebuilding = False
            self.say(SOURCE, "rebuilt")
        else:
            self.generated += 1
            self.say(SOURCE, "token", self.generated - 1)

    def die(self, device: str) -> None:
        self.faults -= 1
        self.workers[device].alive = False
        self.told[device] = ()
        self.say(device, "lost")

    def squeeze(self) -> None:
        self.returns -= 1
        self.workers[SOURCE].replicas = frozenset()

    def start_anew(self, device: str) -> None:
        self.returns -= 1
        self.workers[device] = Worker(frozenset(), Placement({}, -1))
        self.say(device, "hello")

    # --- the controller ------------------------------------------------------------------------------------

    def living(self) -> list[str]:
        return [name for name in NAMES if self.states[name].living]

    def hear(self, device: str) -> None:
        """The controller takes what a device has said next."""
        (kind, *words), *rest = self.said[device]
        self.said[device] = tuple(rest)
        if kind == "lost":
            if any(isinstance(instruction, Recover) for instruction in self.states[device].ended()):
                self.interrupt()
        elif kind == "hello":
            self.states[device].started()
        elif not self.states[device].living:
            self.states[device].heard()
        elif kind == "token":
            assert words[0] == self.done, "a token is lost or doubled"
            self.done += 1
            if self.phase == "generating":
                self.go_on()
        elif kind == "interrupted":
            epoch, held, kept, generated = words
            if self.phase == "interrupting" and epoch == self.epoch:
                assert device != SOURCE or generated == self.done, "a token is lost"
                self.reports, self.kept = {**self.reports, device: held}, {**self.kept, device: kept}
                if set(self.reports) == set(self.living()):
                    self.decide()
        elif kind == "rebuilt":
            if self.phase == "rebuilding":
                self.phase, self.rows = "generating", None
                self.go_on()
        elif self.migration is not None and words[0] == self.migration.epoch and not self.migration.over:
            told = (device, "a cache is gone") if kind == "refused" else (device,)
            self.carry_out(getattr(self.migration, kind)(*told))

    def go_on(self) -> None:
        for known in self.states.values():  # at a boundary, all devices know those that have returned
            if known.state == "returning":
                known.introduced()
        where = self.placement.devices
        if self.done == 1 and where[MOVING] != SOURCE and MOVING in self.workers[where[MOVING]].whole:
            self.workers[SOURCE].replicas = frozenset({MOVING})
        if self.done == TOKENS:
            self.phase = "over"
        elif self.done == 1 and not self.moved and "c" in self.living() and where[MOVING] == "b":
            self.moved, self.phase, self.epoch = True, "migrating", self.epoch + 1
            self.wanted = self.placement.with_moves([(MOVING, "c")], self.epoch)
            self.migration = Migration(self.epoch, self.living(), [Move(MOVING, "b", "c", 10)])
            self.carry_out(self.migration.begin())
        else:
            self.tell(SOURCE, "decode", self.done + 1)

    def interrupt(self) -> None:
        self.epoch, self.phase, self.migration = self.epoch + 1, "interrupting", None
        self.reports, self.kept = {}, {}
        for device in self.living():
            self.tell(device, "interrupt", self.epoch)

    def decide(self) -> None:
        if self.done == TOKENS:
            self.phase = "over"
            return
        now, living = present(self.placement, self.reports), self.living()
        lost = [block for block, device in now.devices.items() if device not in living]
        self.wanted = now.with_moves([(block, living[block.index % len(living)]) for block in lost], self.epoch)
        replicas = {device: dict.fromkeys(blocks, 1) for device, blocks in self.kept.items()}
        sources, length = adopted(now, self.reports, replicas), min(self.done, 1)
        self.rows = whole_rows(sources, self.reports, replicas, length if self.rows is None else min(length, self.rows))
        moves = with_rows(loads(now, self.wanted, self.reports), sources, replicas, self.rows, 10)
        self.migration = Migration(self.epoch, living, moves, drops(self.wanted, self.reports))
        self.phase = "recovering"
        self.carry_out(self.migration.begin())

    def carry_out(self, instructions: list[Instruction]) -> None:
        assert self.migration is not None and self.wanted is not None
        for instruction in instructions:
            match instruction:
                case PrepareOn(device, moves):
                    self.tell(device, "prepare", self.migration.epoch, moves, self.rows)
                case TransferFrom(device, moves):
                    self.tell(device, "transfer", self.migration.epoch, moves)
                case CommitOn(device, drop):
                    self.tell(device, "commit", self.wanted, drop)
                case AbortOn(device):
                    self.tell(device, "abort", self.migration.epoch)
        if self.migration.phase == "aborted":
            assert self.phase == "recovering" and self.rows, "only a lack of replicas is a reason to refuse"
            self.rows = 0
            self.interrupt()
            return
        if self.migration.phase == "done":
            self.placement, recovering = self.wanted, self.phase == "recovering"
            self.check_owners()
            self.phase = "rebuilding" if recovering and self.done and not self.rows else "generating"
            if self.phase == "rebuilding":
                self.tell(SOURCE, "rebuild")
            else:
                self.rows = None
                self.go_on()

    def check_owners(self) -> None:
        """After a commit each block is held once, by the device that the placement names."""
        assert self.migration is not None
        for block, device in self.placement.devices.items():
            owners = [name for name in self.migration.devices if block in self.workers[name].held]
            assert owners == [device], f"{block} is on {owners}, and should be on {device} alone"


def steps(world: World) -> Iterator[World]:
    """All that can happen next."""
    for name in NAMES:
        if world.told[name]:
            after = world.copy()
            after.work(name)
            yield after
        if world.said[name]:
            after = world.copy()
            after.hear(name)
            yield after
        if name != SOURCE and world.faults and world.workers[name].alive:
            after = world.copy()
            after.die(name)
            yield after
        if world.returns and world.workers[SOURCE].replicas and world.phase in ("interrupting", "recovering"):
            after = world.copy()
            after.squeeze()
            yield after
        if world.returns and world.states[name].state == "lost" and not world.workers[name].alive:
            after = world.copy()
            after.start_anew(name)
            yield after
    if (world.rebuilding or world.generated < world.goal) and world.can_pass():
        after = world.copy()
        after.make_pass()
        yield after


def test_no_course_of_a_run_with_two_losses_and_a_return_ends_early_or_loses_or_doubles_tokens_blocks_or_rows() -> None:
    placement = Placement(FIRST)
    workers = {name: Worker(frozenset({block}), placement) for block, name in FIRST.items()}
    first = World(workers, placement, {name: DeviceState(name) for name in NAMES})
    first.go_on()
    seen, waiting, ends = {first.key}, deque([first]), 0
    while waiting:
        world, stuck = waiting.popleft(), True
        for after in steps(world):
            stuck = False
            if after.key not in seen:
                seen.add(after.key)
                waiting.append(after)
        if stuck:
            ends += 1
            assert world.phase == "over" and world.done == TOKENS, f"a run stands still: {world.key}"
    assert ends > 0 and len(seen) > 1000
