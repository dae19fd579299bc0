"""The main loop: at each boundary observe, decide, migrate, commit, enforce; then λ tokens.

The source generates an interval's tokens on its own and reports each, so that nothing out of band is on a
token's way. Between reports the controller replays the traces that run on the time clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from testbed.controller.asking import Answer, PolicyMisbehaved, ask, reset
from testbed.controller.calibration import NOMINAL, HostCalibration
from testbed.controller.conditions import Conditions
from testbed.controller.exchange import Exchange, carry_out
from testbed.controller.fleet import Fleet
from testbed.controller.migration import Migration, Move
from testbed.controller.path_probes import Calibrated, Effort, calibrate
from testbed.controller.recorder import Recorder
from testbed.controller.watch import Watch
from testbed.errors import OutOfMemory, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, payload_bytes
from testbed.placement.cost.forecast import Forecast
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import cached_length, migration_delay, prefill_latency, token_latency
from testbed.placement.observation import Observation, Policy
from testbed.placement.plan import Plan, make_plan, plan_wire_bytes
from testbed.runlog.folder import RunLog
from testbed.transport.messages import (
    Decode,
    Load,
    Loaded,
    Prefill,
    Token,
)

TOKEN_PATIENCE_S = 60.0  # wall seconds without a token before the run is given up, on top of ten times the prediction
START_PATIENCE_S = 300.0  # wall seconds for loading the first placement
MIGRATION_PATIENCE = 5.0  # times the predicted delay, and at least:
MIGRATION_PATIENCE_S = 30.0

Status = Literal["done", "oom", "failed"]


@dataclass
class Outcome:
    """How a run ended."""

    status: Status = "failed"
    tokens: list[int | None] = field(default_factory=list)  # None: simulated
    digests: list[str | None] = field(default_factory=list)
    error: TestbedError | None = None


class Controller:
    """Runs one experiment with one policy on one fleet.

    `prompt` is the tokenised prompt, `effort` how thoroughly links and host are measured before token 0, `host` what is
    known of the host for good. `progress(done)` is called after every token.
    """

    def __init__(
        self,
        experiment: Experiment,
        prompt: Sequence[int],
        fleet: Fleet,
        policy: Policy,
        log: RunLog,
        progress: Callable[[int], None] = lambda done: None,
        effort: Effort = "quick",
        host: HostCalibration = NOMINAL,
    ) -> None:
        self._experiment, self._prompt = experiment, list(prompt)
        self._fleet, self._policy, self._log, self._progress = fleet, policy, log, progress
        self._clock = fleet.clock
        self._names = [device.name for device in experiment.topology.devices]
        self._conditions = Conditions(experiment, fleet.replayed)
        chunks = -(-len(self._prompt) // experiment.prefill_chunk)
        self.recorder = Recorder(log, self._clock, chunks)
        self._host = host
        hop_s = host.hop_overhead_s / experiment.dilation
        self._watch = Watch(experiment, len(self._prompt), fleet, self._conditions, self.recorder, log, hop_s)
        self.outcome = Outcome()
        self._plan: Plan | None = None
        self._effort: Effort = effort
        self.calibrated = Calibrated()
        self._epoch = 0
        self._forecast: Forecast | None = None
        self._forecast_for = (0, 0, 0)  # boundary, changes of the conditions, epoch
        self._wire: dict[int, float] = {}  # rows -> bytes on the wire under the present plan

    # --- the run ---------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Start the fleet, generate all tokens, and say how it went. The fleet is left up for the caller to stop.

        A failure of the run (a lost device, a misbehaving policy) is in the outcome; a failure to start is raised.
        """
        started = time.monotonic()
        self._fleet.start()
        self._log.event("fleet_started", seconds=time.monotonic() - started)
        self._conditions.begin()
        self.recorder.links(self._fleet.apply(self._conditions.target()))
        self._calibrate()
        try:
            self._place_first()
            self._clock.start()
            while len(self.outcome.tokens) < self._experiment.tokens:
                if self.outcome.tokens:
                    self._cross_boundary()
                self._generate_interval()
            self._watch.collect()
            self._watch.end_replay()
            self.outcome.status = "done"
        except OutOfMemory as error:
            self.outcome.status, self.outcome.error = "oom", error
            self._log.event("status", self._clock.now(), status="oom", reason=str(error), step=self._done)
            self._watch.look()
        except RunFailed as error:
            self.outcome.error = error
            self._log.event("status", self._clock.now(), status="failed", reason=str(error), step=self._done)
        return self.outcome

    @property
    def _done(self) -> int:
        return self._watch.tokens_done

    # --- before token 0 ----------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        """Warm every connection, and learn what this host adds."""

        def answer(kind: type[Any], device: str) -> Any:
            return self._watch.answer(kind, device, START_PATIENCE_S)

        self.calibrated = calibrate(self._effort, self._fleet, answer, self._watch.observation())
        for probe in self.calibrated.probes:
            path = (probe.sender, probe.receiver, probe.size, probe.requested_bps)
            self.recorder.rate(0.0, probe.seconds, *path, "probe")
        found = self.calibrated
        self._log.event(
            "calibrated", effort=found.effort, hop_overhead_s=found.hop_overhead_s,
            pacing_floor_s=found.pacing_floor_s, wait_share=found.wait_share,
            delays=[[d.sender, d.receiver, d.expected_s, d.measured_s] for d in found.delays],
        )  # fmt: skip

    def _path_bps(self, device: str, peer: str) -> float:
        return self._watch.target().rate_bps(self._experiment.topology.route(device, peer))

    def _place_first(self) -> None:
        observation = self._watch.observation()
        answer = self._ask_policy(observation, None)
        wanted, decision_s = answer.placement, answer.decision_s
        if wanted is None:
            raise Infeasible(f"policy {self._policy.name} has no first placement: {answer.reason}")
        self._watch.placement = replace(wanted, epoch=0)
        self._plan = make_plan(observation, self._watch.placement)
        found = shortages(observation, None, self._watch.placement)
        self.recorder.decision(
            epoch=0, step=0, policy=self._policy.name, decision_s=decision_s, moved=0,
            predicted_after_s=token_latency(observation, self._plan, observation.final_length),
            feasible=not found, reason="; ".join(map(str, found)) or None, stall_s=0.0, proof=answer.proof,
        )  # fmt: skip
        for device in self._names:
            blocks = [str(block) for block in self._watch.placement.on(device)]
            self._watch.send(device, Load(blocks, pinned=device == self._experiment.topology.source))
        for device in self._names:
            self._watch.answer(Loaded, device, START_PATIENCE_S)
        exchange = self._exchange(Migration(0, self._names, ()), self._plan, observation, START_PATIENCE_S)
        self._fail_if_lost(exchange)
        self.recorder.placement(self._watch.placement, 0)
        self._watch.collect()

    # --- an interval -----------------------------------------------------------------------------------

    def _generate_interval(self) -> None:
        """λ tokens; returns when the last has been reported."""
        experiment, source = self._experiment, self._experiment.topology.source
        self._watch.boundary += 1
        until = min(self._watch.boundary * experiment.interval, experiment.tokens)
        self._wire = {}
        self._refuse_standstill()
        if not self._done:
            self._watch.send(source, Prefill(self._prompt, experiment.prefill_chunk, until))
        else:
            self._watch.send(source, Decode(until))
        while self._done < until:
            predicted = self._predict()
            token = self._watch.answer(Token, source, TOKEN_PATIENCE_S + 10 * predicted * experiment.dilation)
            assert self._plan is not None
            rows = [1] if token.step else [
                min(experiment.prefill_chunk, len(self._prompt) - start)
                for start in range(0, len(self._prompt), experiment.prefill_chunk)
            ]  # fmt: skip
            self.recorder.token(token, predicted, sum(map(self._wire_bytes, rows)))
            self._watch.tokens_done += 1
            self.outcome.tokens.append(token.token_id)
            self.outcome.digests.append(token.logits_digest)
            self._progress(self._done)
        self._log.flush()

    def _wire_bytes(self, rows: int) -> float:
        assert self._plan is not None
        if rows not in self._wire:
            self._wire[rows] = plan_wire_bytes(self._experiment.shape, self._plan, rows, self._experiment.partition)
        return self._wire[rows]

    def _refuse_standstill(self) -> None:
        """On the token clock an outage of a link in use would never end, because no token would come."""
        assert self._plan is not None
        devices = self._plan.devices()
        links = self._conditions.target().links
        out = [name for name in sorted(devices) if name in links and not links[name].up_bps * links[name].down_bps]
        if self._experiment.trace_clock == "token" and len(devices) > 1 and out:
            raise RunFailed(
                f"device {out[0]} computes at token {self._done} and its link is at 0 bit/s: on the token clock that "
                "would never end; use trace_clock: time, or a policy that leaves the device before"
            )

    def _predict(self) -> float:
        """The cost model's latency of the next token under the present conditions and this host's time per hop.

        For a host that has not been calibrated, that time is what was measured before token 0.
        """
        assert self._plan is not None
        known = (self._watch.boundary, self._watch.changes(), self._plan.epoch)
        if self._forecast is None or self._forecast_for != known:
            observation = self._watch.observation()
            if not self._host.measured and self.calibrated.hop_overhead_s is not None:
                observation = replace(observation, hop_overhead_s=self.calibrated.hop_overhead_s)
            if not self._done:
                return prefill_latency(observation, self._plan, self._experiment.prefill_chunk)
            last = len(self._prompt) + min(self._watch.boundary * self._experiment.interval, self._experiment.tokens)
            self._forecast, self._forecast_for = Forecast(observation, self._plan, last - 1), known
        return self._forecast.seconds(len(self._prompt) + self._done)

    # --- a boundary ------------------------------------------------------------------------------------

    def _cross_boundary(self) -> None:
        assert self._watch.placement is not None and self._plan is not None
        started_s = self._clock.trace_now()  # which stands still while the policy decides
        if self._experiment.trace_clock == "token":
            self._watch.advance_traces(float(self._done))
        self._watch.collect()
        observation = self._watch.observation()
        old = self._watch.placement
        self._clock.pause()
        answer = self._ask_policy(observation, old)
        wanted, decision_s, reason = answer.placement, answer.decision_s, answer.reason
        self._clock.resume()
        moves = old.moves_to(wanted) if wanted is not None else []
        committed, exchange = wanted is not None, None
        before = token_latency(observation, self._plan, observation.length)
        if wanted is not None and moves:
            exchange = self._migrate(observation, wanted)
            committed = exchange.migration.state == "done"
            reason = exchange.migration.reason or reason
            self._fail_if_lost(exchange)
        else:
            # The same blocks in the same places; the send order may want to follow the links.
            plan = make_plan(observation, replace(old, epoch=self._plan.epoch))
            if plan != self._plan:
                self._epoch += 1
                self._plan = replace(plan, epoch=self._epoch)
                self._watch.placement = replace(old, epoch=self._epoch)
                exchange = self._exchange(
                    Migration(self._epoch, self._names, ()), self._plan, observation, MIGRATION_PATIENCE_S
                )
                self._fail_if_lost(exchange)
                self.recorder.placement(self._watch.placement, self._done)
        found = shortages(observation, None, self._watch.placement)
        stall = self._clock.trace_now() - started_s if moves else 0.0
        self.recorder.decision(
            epoch=self._watch.placement.epoch, step=self._done, policy=self._policy.name,
            decision_s=decision_s, moved=len(moves), predicted_before_s=before,
            predicted_after_s=token_latency(observation, self._plan, observation.length),
            feasible=committed and not found, reason=reason or "; ".join(map(str, found)) or None, stall_s=stall,
            proof=answer.proof,
        )  # fmt: skip
        self._watch.enforce(self._conditions.enforce(self._watch.boundary, committed))
        self._watch.look()

    def _ask_policy(self, observation: Observation, placement: Placement | None) -> Answer:
        """The policy's checked decision; where it misbehaves, the log says what it returned before the run fails."""
        try:
            if placement is None:
                reset(self._policy, self._experiment.seed)
            return ask(self._policy, observation, placement, self._experiment.decision_limit)
        except PolicyMisbehaved as error:
            self._log.event(
                "policy_misbehaved", self._clock.now(), step=self._done, reason=str(error), returned=error.returned
            )
            self.recorder.decision(
                epoch=placement.epoch if placement is not None else 0, step=self._done, policy=self._policy.name,
                decision_s=error.decision_s, moved=0, feasible=False, reason=str(error),
            )  # fmt: skip
            raise

    def _migrate(self, observation: Observation, wanted: Placement) -> Exchange:
        assert self._watch.placement is not None
        old, length = self._watch.placement, cached_length(observation)
        epoch = self._epoch + 1
        self._epoch = epoch
        wanted = replace(wanted, epoch=epoch)
        plan = make_plan(observation, wanted)
        shipped = self._experiment.weights == "shipped"
        shape, partition = self._experiment.shape, self._experiment.partition
        moves = [
            Move(block, source, target, payload_bytes(shape, block, length, shipped, partition))
            for block, source, target in old.moves_to(wanted)
        ]
        predicted = migration_delay(observation, old, wanted, length)
        self._log.event("migration_begin", self._clock.now(), step=self._done, epoch=epoch, blocks=len(moves))
        patience = max(MIGRATION_PATIENCE_S, MIGRATION_PATIENCE * predicted * self._experiment.dilation)
        requested = {(m.source, m.destination): self._path_bps(m.source, m.destination) for m in moves}
        self._watch.moving = moves
        exchange = self._exchange(Migration(epoch, self._names, moves), plan, observation, patience)
        self._watch.moving = []
        for path, before in requested.items():  # on the time clock a rate may have risen meanwhile
            requested[path] = max(before, self._path_bps(*path))
        self.recorder.exchange(exchange, predicted, requested)
        state = exchange.migration.state
        self._log.event(f"migration_{state}", self._clock.now(), step=self._done, epoch=epoch,
                        reason=exchange.migration.reason or None)  # fmt: skip
        if state == "done":
            self._watch.placement, self._plan = wanted, plan
            self.recorder.placement(wanted, self._done)
        return exchange

    def _exchange(self, migration: Migration, plan: Plan, observation: Observation, patience_s: float) -> Exchange:
        storage = {device.name: device.storage_Bps for device in observation.devices}
        try:
            return carry_out(
                self._fleet, migration, plan,
                length=cached_length(observation), shipped=self._experiment.weights == "shipped",
                storage_Bps=storage, timeout_s=patience_s, wait=self._watch.migration_events,
            )  # fmt: skip
        except RunFailed:
            self._watch.tell_losses()
            raise

    def _fail_if_lost(self, exchange: Exchange) -> None:
        if exchange.lost is not None:
            self._watch.lost(*exchange.lost)
