"""The main loop of a run: at each boundary observe, decide, migrate, commit and enforce; then generate λ tokens.

The source generates the tokens of an interval by itself and reports each one, so the controller is not on a token's
path. The loop knows a fleet by its protocol alone. What happens while it waits is `event_loop`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from testbed.controller.calibration import NOMINAL, HostCalibration
from testbed.controller.conditions import Conditions
from testbed.controller.device_state import DeviceState
from testbed.controller.event_loop import EventLoop
from testbed.controller.fleet import Fleet
from testbed.controller.losses import DeviceGone
from testbed.controller.migration import Migration, Move
from testbed.controller.migration_driver import MigrationResult, drive_migration
from testbed.controller.policy_call import Decision, PolicyMisbehaved, call_policy, reset_policy
from testbed.controller.recorder import Recorder
from testbed.controller.recovery import Recovery
from testbed.controller.run_state import RunState
from testbed.controller.startup_calibration import Calibrated, Effort, calibrate
from testbed.controller.strikes import Strikes
from testbed.errors import OutOfMemory, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, payload_bytes
from testbed.placement.cost.forecast import Forecast, forecast_of
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import cached_length, chunk_rows, migration_delay, prefill_latency, token_latency
from testbed.placement.observation import Observation, Policy
from testbed.placement.plan import Plan, make_plan, plan_wire_bytes
from testbed.placement.uncertainty import rest_of_run_s
from testbed.runlog.folder import RunLog
from testbed.transport.messages import Decode, Load, Loaded, Prefill, Token

# Wall seconds. A run fails when no token comes for TOKEN_PATIENCE_S and ten times the predicted latency.
TOKEN_PATIENCE_S = 60.0
START_PATIENCE_S = 300.0  # for loading the first placement
MIGRATION_PATIENCE_S = 30.0  # at least; a longer migration may take MIGRATION_PATIENCE times its predicted delay
MIGRATION_PATIENCE = 5.0

Status = Literal["done", "oom", "failed"]


@dataclass
class Outcome:
    """How a run ended, and what it generated."""

    status: Status = "failed"
    tokens: list[int | None] = field(default_factory=list)  # token ids; a simulation computes none
    digests: list[str | None] = field(default_factory=list)  # of each token's logits
    error: TestbedError | None = None


class Controller:
    """Runs one experiment with one policy on one fleet.

    `prompt` holds the prompt's token ids. `effort` says how thoroughly links and host are measured before token 0;
    `host` is what `testbed calibrate` has measured. `progress(done, token)` is called after every token. A
    token in `ends` ends the text.
    """

    def __init__(
        self,
        experiment: Experiment,
        prompt: Sequence[int],
        fleet: Fleet,
        policy: Policy,
        log: RunLog,
        progress: Callable[[int, int | None], None] = lambda done, token: None,
        effort: Effort = "quick",
        host: HostCalibration = NOMINAL,
        ends: Collection[int] = (),
    ) -> None:
        self._experiment, self._prompt = experiment, list(prompt)
        self._fleet, self._policy, self._log, self._progress = fleet, policy, log, progress
        self._needs_links = bool(getattr(policy, "needs_links", True))
        self._clock = fleet.clock
        self._names = [device.name for device in experiment.topology.devices]
        self._conditions = Conditions(experiment, fleet.replayed)
        chunks = -(-len(self._prompt) // experiment.prefill_chunk)
        self.recorder = Recorder(log, self._clock, chunks)
        self._host = host
        hop_s = host.hop_overhead_s / experiment.dilation
        self._state = RunState({name: DeviceState(name) for name in self._names})
        self._loop = EventLoop(
            experiment, len(self._prompt), fleet, self._conditions, self._state, self.recorder, log, hop_s
        )
        self._strikes = Strikes(experiment.traces, experiment.tokens if experiment.trace_clock == "token" else -1)
        self._ends = tuple(ends)
        self.outcome = Outcome()
        self._recovery = Recovery(
            experiment, self._prompt, self._loop, self._state, self.recorder, self._clock, self._ask_policy,
            self._drive, lambda token: self._take(token, self._predict()), lambda: self.outcome.tokens, self._over,
        )  # fmt: skip
        self._effort: Effort = effort
        self.calibrated = Calibrated()
        self._forecast: Forecast | None = None
        self._forecast_for = (0, 0, 0)  # the boundary, the number of changed conditions and the epoch it is made for
        self._wire: dict[int, float] = {}  # rows -> bytes on the wire under the present plan

    # --- the run ---------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Start the fleet, generate all tokens and return how it went. The caller stops the fleet.

        The outcome holds a failure of the run, such as a lost device; a failure to start is raised.
        """
        started = time.monotonic()
        self._fleet.start()
        self._log.event("fleet_started", seconds=time.monotonic() - started)
        self._conditions.begin()
        self.recorder.links(self._fleet.apply(self._conditions.target()))
        self._calibrate()
        state = self._state
        try:
            self._place_first()
            self._clock.start()
            state.begun = True
            while not self._over():
                if self.outcome.tokens:
                    self._surviving(self._cross_boundary)
                state.boundary += 1
                self._surviving(self._generate_interval)
            self._surviving(self._loop.collect)
            self._loop.end_replay()
            self._loop.record_delays()
            self.outcome.status = "done"
        except OutOfMemory as error:
            self.outcome.status, self.outcome.error = "oom", error
            self._log.event("status", self._clock.now(), status="oom", reason=str(error), step=state.tokens_done)
            self._loop.sample()
        except RunFailed as error:
            self.outcome.error = error
            self._log.event("status", self._clock.now(), status="failed", reason=str(error), step=state.tokens_done)
        self._recovery.close()
        return self.outcome

    def _surviving(self, part: Callable[[], None]) -> None:
        """Carry out a part of the run, and again from where it stands after each recovery from a loss."""
        while True:
            try:
                return part()
            except DeviceGone:
                self._recovery.run()
                self._wire = {}

    # --- before token 0 ----------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        """Warm every connection and measure what this host adds to emulated times; RunFailed for a lost device."""

        def answer(kind: type[Any], device: str) -> Any:
            return self._loop.answer(kind, device, START_PATIENCE_S)

        try:
            self.calibrated = found = calibrate(self._effort, self._fleet, answer, self._loop.observation())
        except RunFailed:
            self._loop.raise_losses()
            raise
        for probe in found.probes:
            path = (probe.sender, probe.receiver, probe.size, probe.requested_bps)
            self.recorder.rate(0.0, probe.seconds, *path, "probe")
        self._log.event(
            "calibrated", effort=found.effort, hop_overhead_s=found.hop_overhead_s,
            pacing_floor_s=found.pacing_floor_s, wait_share=found.wait_share,
            delays=[[d.sender, d.receiver, d.expected_s, d.measured_s] for d in found.delays],
        )  # fmt: skip

    def _place_first(self) -> None:
        """Ask for the first placement, have every device load its blocks, and commit epoch 0."""
        truth, observation, state = self._loop.observation(), self._loop.seen(self._needs_links), self._state
        decision = self._ask_policy(observation, None)
        if decision.placement is None:
            raise Infeasible(f"policy {self._policy.name} has no first placement: {decision.reason}")
        state.placement = replace(decision.placement, epoch=0)
        state.plan = make_plan(observation, state.placement)
        found = shortages(truth, None, state.placement)
        self.recorder.decision(
            epoch=0, step=0, policy=self._policy.name, decision_s=decision.decision_s, moved=0,
            predicted_after_s=token_latency(truth, state.plan, truth.final_length),
            feasible=not found, reason="; ".join(map(str, found)) or None, stall_s=0.0, proof=decision.proof,
        )  # fmt: skip
        for device in self._names:
            blocks = [str(block) for block in state.placement.on(device)]
            self._loop.send(device, Load(blocks, pinned=device == self._experiment.topology.source))
        for device in self._names:
            self._loop.answer(Loaded, device, START_PATIENCE_S)
        self._loop.hear(self._drive(Migration(0, self._names, ()), state.plan, observation, START_PATIENCE_S).losses)
        self.recorder.placement(state.placement, 0)
        self._loop.collect()

    # --- an interval -----------------------------------------------------------------------------------

    def _generate_interval(self) -> None:
        """Generate λ tokens, or fewer to the end of the text; returns when the last one has been reported."""
        experiment, state = self._experiment, self._state
        end = min(state.boundary * experiment.interval, experiment.tokens)
        self._wire = {}
        self._refuse_endless_outage()
        while state.tokens_done < end and not self._over():
            for device in self._strikes.take(state.tokens_done):
                self._loop.kill(device)
            self._generate(self._strikes.before(end))
        self._log.flush()

    def _generate(self, until: int) -> None:
        """Have the source generate up to `until` tokens in all."""
        experiment, source, state = self._experiment, self._experiment.topology.source, self._state
        if not state.tokens_done:
            sampling = experiment.seeded_sampling
            self._loop.send(source, Prefill(self._prompt, experiment.prefill_chunk, until, self._ends, sampling))
        else:
            self._loop.send(source, Decode(until))
        self._loop.look_at_delays()
        while state.tokens_done < until and not self._over():
            predicted = self._predict()
            token = self._loop.answer(Token, source, TOKEN_PATIENCE_S + 10 * predicted * experiment.dilation)
            self._take(token, predicted)

    def _take(self, token: Token, predicted: float) -> None:
        """Note a token that the source has reported."""
        state = self._state
        rows = [1] if token.step else chunk_rows(len(self._prompt), self._experiment.prefill_chunk)
        self.recorder.token(token, predicted, sum(map(self._wire_bytes, rows)))
        self._recovery.first_token(token)
        state.tokens_done += 1
        state.last_token_s = self._clock.trace_now()
        self.outcome.tokens.append(token.token_id)
        self.outcome.digests.append(token.logits_digest)
        self._progress(state.tokens_done, token.token_id)

    def _over(self) -> bool:
        """Whether all tokens are there, or the model has ended its text."""
        tokens = self.outcome.tokens
        return len(tokens) == self._experiment.tokens or (bool(tokens) and tokens[-1] in self._ends)

    def _wire_bytes(self, rows: int) -> float:
        """Bytes on all links of a forward pass with so many rows."""
        if rows not in self._wire:
            _, plan = self._state.placed()
            self._wire[rows] = plan_wire_bytes(self._experiment.shape, plan, rows, self._experiment.partition)
        return self._wire[rows]

    def _refuse_endless_outage(self) -> None:
        """Raise RunFailed for an outage of a link in use on the token clock: no token comes, so it never ends."""
        _, plan = self._state.placed()
        devices = plan.devices()
        links = self._conditions.target().links
        out = [name for name in sorted(devices) if name in links and not links[name].up_bps * links[name].down_bps]
        if self._experiment.trace_clock == "token" and len(devices) > 1 and out:
            raise RunFailed(
                f"device {out[0]} computes at token {self._state.tokens_done} and its link is at 0 bit/s: on the token "
                "clock that would never end; use trace_clock: time, or a policy that leaves the device before"
            )

    def _predict(self) -> float:
        """The latency that the cost model predicts for the next token under the present conditions.

        The software's time per hop is the calibrated host's. For a host without a calibration file it is what was
        measured before token 0.
        """
        experiment, state = self._experiment, self._state
        _, plan = state.placed()
        known = (state.boundary, self._loop.changes(), plan.epoch)
        if self._forecast is None or self._forecast_for != known:
            observation = self._loop.observation()
            if not self._host.measured and self.calibrated.hop_overhead_s is not None:
                observation = replace(observation, hop_overhead_s=self.calibrated.hop_overhead_s)
            if not state.tokens_done:
                return prefill_latency(observation, plan, experiment.prefill_chunk)
            last = len(self._prompt) + min(state.boundary * experiment.interval, experiment.tokens)
            self._forecast, self._forecast_for = forecast_of(observation, plan, last - 1), known
        return self._forecast.seconds(len(self._prompt) + state.tokens_done)

    # --- a boundary ------------------------------------------------------------------------------------

    def _cross_boundary(self) -> None:
        """Observe, decide, migrate and commit; then enforce the memory decreases that are due."""
        state = self._state
        started_s = self._clock.trace_now()  # this clock stands still while the policy decides
        if self._experiment.trace_clock == "token":
            self._loop.advance_traces(float(state.tokens_done))
        self._loop.collect()
        truth, observation = self._loop.observation(), self._loop.seen(self._needs_links)
        old, plan = state.placed()
        self._clock.pause()
        decision = self._ask_policy(observation, old)
        wanted, reason = decision.placement, decision.reason
        gain = self._gain_s(truth, old, wanted)
        self._clock.resume()
        moves = old.moves_to(wanted) if wanted is not None else []
        committed = wanted is not None
        before = token_latency(truth, plan, truth.length)
        if wanted is not None and moves:
            migration = self._migrate(truth, observation, wanted)
            committed = migration.phase == "done"
            reason = migration.reason or reason
        else:
            self._reorder_sends(observation)
        placement, plan = state.placed()
        found = shortages(truth, None, placement)
        stall = self._clock.trace_now() - started_s if moves or self._loop.probed else 0.0
        self.recorder.decision(
            epoch=placement.epoch, step=state.tokens_done, policy=self._policy.name,
            decision_s=decision.decision_s, moved=len(moves), predicted_before_s=before,
            predicted_after_s=token_latency(truth, plan, truth.length),
            feasible=committed and not found, reason=reason or "; ".join(map(str, found)) or None, stall_s=stall,
            gain_s=gain, proof=decision.proof,
        )  # fmt: skip
        self._loop.enforce(self._conditions.enforce(state.boundary, committed))
        self._loop.sample()

    def _gain_s(self, truth: Observation, old: Placement, wanted: Placement | None) -> float | None:
        """Seconds that moving gains in the rest of the run, by what is true now; None where staying is no choice."""
        if wanted is None or not old.moves_to(wanted) or shortages(truth, None, old):
            return None
        return rest_of_run_s(truth, old, old) - rest_of_run_s(truth, old, wanted)

    def _reorder_sends(self, observation: Observation) -> None:
        """Commit a plan with another send order for the same placement, if the links have changed so that it helps."""
        state = self._state
        old, present = state.placed()
        plan = make_plan(observation, replace(old, epoch=present.epoch))
        if plan == present:
            return
        state.epoch += 1
        state.plan = replace(plan, epoch=state.epoch)
        state.placement = replace(old, epoch=state.epoch)
        migration = Migration(state.epoch, self._loop.living(), ())
        self._loop.hear(self._drive(migration, state.plan, observation, MIGRATION_PATIENCE_S).losses)
        self.recorder.placement(state.placement, state.tokens_done)

    def _ask_policy(self, observation: Observation, placement: Placement | None) -> Decision:
        """The policy's checked decision. Where it misbehaves, the log says what it returned before the run fails."""
        try:
            if placement is None:
                reset_policy(self._policy, self._experiment.seed, observation)
            return call_policy(self._policy, observation, placement, self._experiment.decision_limit)
        except PolicyMisbehaved as error:
            step = self._state.tokens_done
            self._log.event(
                "policy_misbehaved", self._clock.now(), step=step, reason=str(error), returned=error.returned
            )
            self.recorder.decision(
                epoch=placement.epoch if placement is not None else 0, step=step, policy=self._policy.name,
                decision_s=error.decision_s, moved=0, feasible=False, reason=str(error),
            )  # fmt: skip
            raise

    def _migrate(self, truth: Observation, observation: Observation, wanted: Placement) -> Migration:
        """Move blocks until the wanted placement is reached, or the migration is aborted; returns how it ended."""
        experiment, state = self._experiment, self._state
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
        self._log.event("migration_begin", self._clock.now(), step=step, epoch=state.epoch, blocks=len(moves))
        patience = max(MIGRATION_PATIENCE_S, MIGRATION_PATIENCE * predicted * experiment.dilation)
        requested = {(m.source, m.destination): self._path_bps(m.source, m.destination) for m in moves}
        state.moving = moves
        result = self._drive(Migration(state.epoch, self._loop.living(), moves), plan, observation, patience)
        state.moving = ()
        for path, before in requested.items():  # on the time clock a rate may have risen meanwhile
            requested[path] = max(before, self._path_bps(*path))
        self.recorder.migration(result, predicted, requested)
        self._loop.migrated(result)
        migration = result.migration
        self._log.event(f"migration_{migration.phase}", self._clock.now(), step=step, epoch=state.epoch,
                        reason=migration.reason or None)  # fmt: skip
        if migration.phase == "done":
            state.placement, state.plan = wanted, plan
            self.recorder.placement(wanted, step)
        self._loop.hear(result.losses)
        return migration

    def _path_bps(self, device: str, peer: str) -> float:
        return self._loop.target().rate_bps(self._experiment.topology.route(device, peer))

    def _drive(self, migration: Migration, plan: Plan, observation: Observation, patience_s: float) -> MigrationResult:
        """Carry out a migration on the fleet; raises RunFailed when a device cannot be reached."""
        storage = {device.name: device.storage_Bps for device in observation.devices}
        try:
            return drive_migration(
                self._fleet, migration, plan,
                length=cached_length(observation), shipped=self._experiment.weights == "shipped",
                storage_Bps=storage, timeout_s=patience_s, wait=self._loop.migration_events,
            )  # fmt: skip
        except RunFailed:
            self._loop.raise_losses()
            raise
