"""Migrations that copy blocks while tokens go on, and stop only for the newest rows and the switch of epochs.

At most one is under way. It goes on over the next boundaries as long as the policy wants the same placement, there is
memory for both placements, and no memory decrease has been announced. Otherwise it is aborted, and nothing has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from testbed.controller.conditions import Conditions
from testbed.controller.event_loop import EventLoop
from testbed.controller.fleet import Fleet
from testbed.controller.journal import Journal
from testbed.controller.migration import Migration, Move
from testbed.controller.migration_driver import CopyOrders, MigrationDriver
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, payload_bytes
from testbed.placement.cost.copying import Paces, copies_fit, copy_paces, copy_seconds, copy_stall_s
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import cached_length, migration_delay, token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import make_plan
from testbed.runlog.folder import RunLog
from testbed.transport.copying import Halt, Halted, StreamOrder
from testbed.transport.messages import Command

# Wall seconds.
COPY_PATIENCE_S = 30.0  # at least; a longer copy may take COPY_PATIENCE times its predicted time
COPY_PATIENCE = 5.0
HALT_PATIENCE_S = 60.0  # for a source that generates nothing to say so


@dataclass
class _Copying:
    """The migration under way."""

    driver: MigrationDriver
    wanted: Placement
    since_step: int  # tokens that were done when it began
    predicted_s: float  # from its begin to the halt
    predicted_stall_s: float


@dataclass
class LiveMigrations:
    """Begins, reconsiders and ends the migrations of one run that copy while tokens go on."""

    experiment: Experiment
    fleet: Fleet
    conditions: Conditions
    state: RunState
    loop: EventLoop
    recorder: Recorder
    log: RunLog
    journal: Journal
    policy: str
    halts: int = 0  # answers of the source that are still to come
    _copying: _Copying | None = None

    @property
    def under_way(self) -> bool:
        """Whether blocks are being copied."""
        return self._copying is not None

    def pays(self, truth: Observation, old: Placement, wanted: Placement) -> bool:
        """Whether to copy and not to stop: by the experiment's `migration`, and where copying is possible at all.

        With `auto` it is what loses less: a stall now, or a short one later, slower tokens until then and the old
        placement for so long.
        """
        if self.experiment.migration == "stop" or self.conditions.announced_memory():
            return False
        moves, length = old.moves_to(wanted), cached_length(truth)
        before, after = (token_latency(truth, placement, truth.length) for placement in (old, wanted))
        seconds = copy_seconds(truth, moves, length, before)
        if not copies_fit(truth, old, wanted) or seconds == float("inf"):
            return False
        if self.experiment.migration == "live":
            return True
        lost_s = copy_stall_s(truth, moves) + seconds * max(0.0, 1 - after / before)
        return lost_s < migration_delay(truth, old, wanted, length)

    def begin(self, truth: Observation, observation: Observation, wanted: Placement) -> None:
        """Begin to copy what is to move. The caller generates tokens meanwhile."""
        experiment, state, wall = self.experiment, self.state, self.fleet.clock.wall
        (old, plan), length = state.placed(), cached_length(observation)
        state.epoch += 1
        wanted = replace(wanted, epoch=state.epoch)
        shipped = experiment.weights == "shipped"
        moved = old.moves_to(wanted)
        sizes = [payload_bytes(experiment.shape, block, length, shipped, experiment.partition) for block, _, _ in moved]
        moves = [Move(*move, size) for move, size in zip(moved, sizes, strict=True)]
        paces = copy_paces(observation, moved)
        predicted_s = copy_seconds(truth, moved, length, token_latency(truth, plan, truth.length))
        patience_s = max(COPY_PATIENCE_S, COPY_PATIENCE * predicted_s * experiment.dilation)
        driver = MigrationDriver(
            self._send, wall, Migration(state.epoch, self.loop.living(), moves, live=True),
            make_plan(observation, wanted), length, shipped,
            {device.name: device.storage_Bps for device in observation.devices}, patience_s,
            CopyOrders(self._orders(moves, paces), truth.final_length), self.loop.traces.hold_up,
        )  # fmt: skip
        self._copying = _Copying(driver, wanted, state.tokens_done, predicted_s, copy_stall_s(truth, moved))
        state.moving, state.copying = moves, paces
        self.loop.copying = driver
        self.log.event("migration_begin", self.fleet.clock.now(), step=state.tokens_done, epoch=state.epoch,
                       blocks=len(moves), live=True)  # fmt: skip
        driver.begin()

    def _orders(self, moves: list[Move], paces: Paces) -> dict[str, list[StreamOrder]]:
        """The orders for each sender. Rates are in wall seconds there."""
        found: dict[str, list[StreamOrder]] = {}
        for (source, target), pace in paces.items():
            blocks = [str(m.block) for m in moves if (m.source, m.destination) == (source, target) and m.payload_bytes]
            rate_Bps = pace.rate_bps / 8 / self.experiment.dilation
            found.setdefault(source, []).append(
                StreamOrder(target, blocks, rate_Bps, pace.piece_bytes, pace.window_bytes)
            )
        return found

    def _send(self, device: str, command: Command) -> None:
        self.halts += isinstance(command, Halt)
        self.loop.send(device, command)

    def reconsider(self, truth: Observation, wanted: Placement | None) -> None:
        """At a boundary: abort what the policy no longer wants, or what there is no memory for."""
        if self._copying is None:
            return
        old, _ = self.state.placed()
        if not self._copying.driver.migration.can_be_aborted:
            self.abort("")  # it has been, and not all have forgotten it
        elif wanted is None or wanted.devices != self._copying.wanted.devices:
            self.abort("the policy decided otherwise")
        elif self.conditions.announced_memory() or not copies_fit(truth, old, wanted):
            self.abort("the memory for both placements is no longer there")
        elif set(self.loop.living()) != set(self._copying.driver.migration.devices):
            self.abort("a device has returned")

    def look_at_the_time(self) -> None:
        """After a token: abort what takes too long, and let go of what has been aborted meanwhile."""
        if self._copying is not None:
            self._copying.driver.look_at_the_time()
            if self._copying.driver.migration.over:
                self._end()

    def abort(self, reason: str) -> None:
        """Between two intervals: give up what is under way, and wait until all have forgotten it."""
        if self._copying is None:
            return
        self._copying.driver.abort(reason)
        self._run()
        self._end()
        self.await_halts()  # an answer that came later would be taken for that of the next migration

    def await_halts(self) -> None:
        """Hear that the source has halted, where it was asked to while it had nothing to generate any more."""
        while self.halts:
            self.loop.answer(Halted, self.experiment.topology.source, HALT_PATIENCE_S)
            self.halted()

    def drop(self) -> None:
        """Let go of what is under way, because a loss has interrupted it everywhere, or the run has failed."""
        self.halts = 0
        if self._copying is not None:
            self._end()

    def halted(self) -> None:
        """The source has halted: move the newest rows and switch to the new placement, unless it has been aborted."""
        self.halts -= 1
        copying, state, clock = self._copying, self.state, self.fleet.clock
        if copying is None or copying.driver.migration.phase != "halting":
            return
        _, plan = state.placed()
        truth = self.loop.observation()
        self.loop.copying = None  # events go to the driver directly
        copying.driver.halted(cached_length(truth))
        self._run()
        migration = copying.driver.migration
        done = migration.phase == "done"
        stall_s = clock.trace_now() - state.last_token_s
        if done:
            state.placement, state.plan = copying.wanted, copying.driver.plan
            self.recorder.placement(copying.wanted, state.tokens_done)
        placement, after = state.placed()
        found = shortages(truth, None, placement)
        self.recorder.decision(
            epoch=placement.epoch, step=state.tokens_done, policy=self.policy, decision_s=0.0,
            moved=len(migration.moves) if done else 0,
            predicted_before_s=token_latency(truth, plan, truth.length),
            predicted_after_s=token_latency(truth, after, truth.length), feasible=done and not found,
            reason=migration.reason or f"copied since token {copying.since_step}", stall_s=stall_s,
        )  # fmt: skip
        self._end(predicted_stall_s=copying.predicted_stall_s, stall_s=stall_s)
        self.loop.traces.enforce(self.conditions.enforce(state.boundary, done))
        self.journal.crossed(self.conditions.time, done)
        self.journal.checkpoint()

    def _run(self) -> None:
        """Drive what is under way to its end, while no token is generated or the last ones are on their way."""
        assert self._copying is not None
        self.loop.copying = None
        self._copying.driver.run(self.loop.migration_events)

    def _end(self, **told: float) -> None:
        """Write down how it ended."""
        copying, state = self._copying, self.state
        assert copying is not None
        self._copying, self.loop.copying = None, None
        state.moving, state.copying = (), {}
        migration, result = copying.driver.migration, copying.driver.result
        length = copying.driver.length
        shape, partition, shipped = self.experiment.shape, self.experiment.partition, copying.driver.shipped
        migration.moves = [
            replace(move, payload_bytes=payload_bytes(shape, move.block, length, shipped, partition))
            for move in migration.moves
        ]
        self.recorder.migration(result, copying.predicted_s, None)
        self.log.event(f"migration_{migration.outcome}", self.fleet.clock.now(), step=state.tokens_done,
                       epoch=migration.epoch, reason=migration.reason or None, live=True, **told)  # fmt: skip
