"""The boundary between two intervals: observe, decide, migrate and commit, then enforce memory decreases."""

from __future__ import annotations

from dataclasses import dataclass, replace

from testbed.clock import EmulatedClock
from testbed.controller.conditions import Conditions
from testbed.controller.deciding import Decider
from testbed.controller.event_loop import EventLoop
from testbed.controller.fleet import Fleet
from testbed.controller.live_migration import LiveMigrations
from testbed.controller.migration import Migration, Move
from testbed.controller.migration_driver import MigrationDriver, MigrationResult
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, payload_bytes
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import cached_length, migration_delay, token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan
from testbed.placement.uncertainty import rest_of_run_s
from testbed.runlog.folder import RunLog

# Wall seconds.
MIGRATION_PATIENCE_S = 30.0  # at least; a longer migration may take MIGRATION_PATIENCE times its predicted delay
MIGRATION_PATIENCE = 5.0


@dataclass
class Boundary:
    """Crosses the boundaries of one run."""

    experiment: Experiment
    fleet: Fleet
    conditions: Conditions
    state: RunState
    loop: EventLoop
    decider: Decider
    recorder: Recorder
    log: RunLog
    live: LiveMigrations

    @property
    def clock(self) -> EmulatedClock:
        """The fleet's clock."""
        return self.fleet.clock

    def cross(self) -> None:
        """Observe, decide, migrate and commit; then enforce the memory decreases that are due."""
        state = self.state
        if self.loop.offer_returned():
            self.decider.journal.checkpoint()  # they are no longer lost, whatever happens until the next one
        started_s = self.clock.trace_now()  # this clock stands still while the policy decides
        if self.experiment.trace_clock == "token":
            self.loop.traces.advance(float(state.tokens_done))
        self.loop.collect()
        truth, observation = self.loop.observation(), self.loop.seen(self.decider.needs_links())
        old, plan = state.placed()
        self.clock.pause()
        try:
            decision = self.decider.ask(observation, old)
            wanted, reason = decision.placement, decision.reason
            gain = self._gain_s(truth, old, wanted)
        finally:
            self.clock.resume()
        moves = old.moves_to(wanted) if wanted is not None else []
        committed = wanted is not None
        before = token_latency(truth, plan, truth.length)
        self.live.reconsider(truth, wanted)
        if self.live.under_way:
            moves, committed, reason = [], False, "blocks are being copied"
        elif wanted is not None and moves and self.live.pays(truth, old, wanted):
            self.live.begin(truth, observation, wanted)
            moves, committed, reason = [], False, "blocks are copied while tokens go on"
        elif wanted is not None and moves:
            migration = self._migrate(truth, observation, wanted)
            committed = migration.phase == "done"
            reason = migration.reason or reason
        else:
            self._reorder_sends(observation)
        placement, plan = state.placed()
        found = shortages(truth, None, placement)
        stall = self.clock.trace_now() - started_s if moves or self.loop.probed else 0.0
        self.recorder.decision(
            epoch=placement.epoch, step=state.tokens_done, policy=self.decider.policy.name,
            decision_s=decision.decision_s, moved=len(moves), predicted_before_s=before,
            predicted_after_s=token_latency(truth, plan, truth.length),
            feasible=(committed or self.live.under_way) and not found,
            reason=reason or "; ".join(map(str, found)) or None, stall_s=stall,
            gain_s=gain, proof=decision.proof,
        )  # fmt: skip
        self.loop.traces.enforce(self.conditions.enforce(state.boundary, committed))
        self.decider.journal.crossed(self.conditions.time, committed)
        self.loop.sample()

    def _gain_s(self, truth: Observation, old: Placement, wanted: Placement | None) -> float | None:
        """Seconds that moving gains in the rest of the run, by what is true now; None where staying is no choice."""
        if wanted is None or not old.moves_to(wanted) or shortages(truth, None, old):
            return None
        return rest_of_run_s(truth, old, old) - rest_of_run_s(truth, old, wanted)

    def _reorder_sends(self, observation: Observation) -> None:
        """Commit a plan with another send order for the same placement, if the links have changed so that it helps."""
        state = self.state
        old, present = state.placed()
        plan = make_plan(observation, replace(old, epoch=present.epoch))
        if plan == present:
            return
        state.epoch += 1
        state.plan = replace(plan, epoch=state.epoch)
        state.placement = replace(old, epoch=state.epoch)
        migration = Migration(state.epoch, self.loop.living(), ())
        self.drive(migration, state.plan, observation, MIGRATION_PATIENCE_S)
        self.recorder.placement(state.placement, state.tokens_done)

    def _migrate(self, truth: Observation, observation: Observation, wanted: Placement) -> Migration:
        """Move blocks until the wanted placement is reached, or the migration is aborted; returns how it ended."""
        experiment, state = self.experiment, self.state
        (old, _), length = state.placed(), cached_length(observation)
        state.epoch += 1
        wanted = replace(wanted, epoch=state.epoch)
        plan = make_plan(observation, wanted)
        shape, partition, shipped = experiment.shape, experiment.partition, experiment.weights == "shipped"
        moves = [
            Move(block, source, target, payload_bytes(shape, block, length, shipped, partition))
            for block, source, target in old.moves_to(wanted)
        ]
        predicted = migration_delay(truth, old, wanted, length)
        step = state.tokens_done
        self.log.event("migration_begin", self.clock.now(), step=step, epoch=state.epoch, blocks=len(moves))
        patience = max(MIGRATION_PATIENCE_S, MIGRATION_PATIENCE * predicted * experiment.dilation)
        migration = Migration(state.epoch, self.loop.living(), moves)
        state.moving = moves
        try:
            self.loop.migrated(self.drive(migration, plan, observation, patience, predicted))
        finally:
            state.moving = ()
            self.log.event(f"migration_{migration.outcome}", self.clock.now(), step=step, epoch=state.epoch,
                           reason=migration.reason or None)  # fmt: skip
        if migration.phase == "done":
            state.placement, state.plan = wanted, plan
            self.recorder.placement(wanted, step)
        return migration

    def _path_bps(self, device: str, peer: str) -> float:
        return self.loop.traces.target().rate_bps(self.experiment.topology.route(device, peer))

    def drive(
        self,
        migration: Migration,
        plan: Plan,
        observation: Observation,
        patience_s: float,
        predicted_s: float | None = None,
        rows: int | None = None,
    ) -> MigrationResult:
        """Carry out a migration while no token is generated, and write down how it ended, also if a loss ends it.

        With `rows`, so many rows of each cache travel, and not all.
        """
        paths = {(move.source, move.destination) for move in migration.moves if move.payload_bytes}
        requested = {path: self._path_bps(*path) for path in paths}
        driver = MigrationDriver(
            self.loop.send, self.clock.wall, migration, plan, cached_length(observation),
            self.experiment.weights == "shipped", {device.name: device.storage_Bps for device in observation.devices},
            patience_s, hold_up=self.loop.traces.hold_up, rows=rows,
        )  # fmt: skip
        try:
            driver.begin()
            return driver.run(self.loop.migration_events)
        finally:  # on the time clock a rate may have risen meanwhile
            requested = {path: max(before, self._path_bps(*path)) for path, before in requested.items()}
            self.recorder.migration(driver.result, predicted_s, requested)
