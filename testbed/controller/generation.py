"""The main loop: at each boundary observe, decide, migrate, commit, enforce; then λ tokens.

The source generates an interval's tokens on its own and reports each, so that nothing out of band is on a
token's way. Between reports the controller replays the traces that run on the time clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from testbed.controller.calibration import Calibration
from testbed.controller.conditions import Announcement, Conditions, observe
from testbed.controller.exchange import Exchange, carry_out
from testbed.controller.fleet import DeviceLost, Fleet, FleetEvent, Samples
from testbed.controller.migration import Migration, Move
from testbed.controller.recorder import Recorder
from testbed.errors import OutOfMemory, RunFailed, TestbedError
from testbed.experiment import Experiment
from testbed.placement.blocks import Placement, payload_bytes, resident_bytes
from testbed.placement.costs import cached_length, migration_delay, prefill_latency, token_latency
from testbed.placement.feasibility import Infeasible, check_complete, device_needs, shortages
from testbed.placement.observation import Observation, Policy
from testbed.placement.plan import Plan, make_plan, plan_wire_bytes
from testbed.runlog import RunLog
from testbed.transport.messages import (
    Collect,
    Collected,
    Decode,
    Failed,
    Load,
    Loaded,
    OutOfBudget,
    Pinged,
    Prefill,
    Probed,
    Token,
)
from testbed.units import format_bytes

SAMPLE_INTERVAL_S = 0.5  # wall seconds between looks at memory and queues while tokens are generated
TOKEN_PATIENCE_S = 60.0  # wall seconds without a token before the run is given up, on top of ten times the prediction
START_PATIENCE_S = 300.0  # wall seconds for loading the first placement
MIGRATION_PATIENCE = 5.0  # times the predicted delay, and at least:
MIGRATION_PATIENCE_S = 30.0

_ANSWERS = (Loaded, Token, Pinged, Probed, Collected)

Status = Literal["done", "oom", "failed"]


@dataclass
class Outcome:
    """How a run ended."""

    status: Status = "failed"
    tokens: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    error: TestbedError | None = None


class Controller:
    """Runs one experiment with one policy on one fleet.

    `prompt` is the tokenised prompt. `progress(done)` is called after every token.
    """

    def __init__(
        self,
        experiment: Experiment,
        prompt: Sequence[int],
        fleet: Fleet,
        policy: Policy,
        log: RunLog,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self._experiment, self._prompt = experiment, list(prompt)
        self._fleet, self._policy, self._log, self._progress = fleet, policy, log, progress
        self._clock = fleet.clock
        self._names = [device.name for device in experiment.topology.devices]
        self._conditions = Conditions(experiment)
        chunks = -(-len(self._prompt) // experiment.prefill_chunk)
        self.recorder = Recorder(log, self._clock, chunks)
        self.outcome = Outcome()
        self._placement: Placement | None = None
        self._plan: Plan | None = None
        self._hop_overhead_s = 0.0
        self._waits: dict[str, float] = {}
        self._requests = 0
        self._sampled_s = 0.0
        self._boundary = 0
        self._epoch = 0
        self._moving: list[Move] = []
        self._inbox: list[tuple[str, FleetEvent]] = []  # answers not yet awaited

    # --- the run ---------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Start the fleet, generate all tokens, and say how it went. The fleet is left up for the caller to stop.

        A failure of the run (a lost device, a misbehaving policy) is in the outcome; a failure to start is raised.
        """
        self._fleet.start()
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
            self._collect()
            self.outcome.status = "done"
        except OutOfMemory as error:
            self.outcome.status, self.outcome.error = "oom", error
            self._log.event("status", self._clock.now(), status="oom", reason=str(error), step=self._done)
            self._look()
        except RunFailed as error:
            self.outcome.error = error
            self._log.event("status", self._clock.now(), status="failed", reason=str(error), step=self._done)
        return self.outcome

    @property
    def _done(self) -> int:
        return len(self.outcome.tokens)

    # --- before token 0 ----------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        """Warm every connection, and learn what a hop costs in software."""
        asking = Calibration(self._fleet, lambda kind, device: self._await(kind, device, START_PATIENCE_S), self._names)
        self._hop_overhead_s = asking.hop_overhead_s(self._observation().links)
        for probe in asking.probe_rates(self._path_bps):
            path = (probe.sender, probe.receiver, probe.size, probe.requested_bps)
            self.recorder.rate(0.0, probe.seconds, *path, "probe")
        self._log.event("calibrated", hop_overhead_s=self._hop_overhead_s)

    def _path_bps(self, device: str, peer: str) -> float:
        links = self._conditions.target().links
        return min(links[device].up_bps, links[peer].down_bps)

    def _place_first(self) -> None:
        self._policy.reset(self._experiment.seed)
        observation = self._observation()
        wanted, decision_s, reason = self._ask_policy(observation, None)
        if wanted is None:
            raise RunFailed(f"policy {self._policy.name} has no first placement: {reason}")
        self._placement = replace(wanted, epoch=0)
        self._plan = make_plan(observation, self._placement)
        found = shortages(observation, None, self._placement)
        self.recorder.decision(
            epoch=0, step=0, policy=self._policy.name, decision_s=decision_s, moved=0,
            predicted_after_s=token_latency(observation, self._plan, observation.final_length),
            feasible=not found, reason="; ".join(map(str, found)) or None, stall_s=0.0,
        )  # fmt: skip
        for device in self._names:
            blocks = [str(block) for block in self._placement.on(device)]
            self._fleet.send(device, Load(blocks, pinned=device == self._experiment.topology.source))
        for device in self._names:
            self._await(Loaded, device, START_PATIENCE_S)
        exchange = self._exchange(Migration(0, self._names, ()), self._plan, observation, START_PATIENCE_S)
        self._fail_if_lost(exchange)
        self.recorder.placement(self._placement, 0)
        self._look()

    # --- an interval -----------------------------------------------------------------------------------

    def _generate_interval(self) -> None:
        """λ tokens; returns when the last has been reported."""
        experiment, source = self._experiment, self._experiment.topology.source
        until = min((self._boundary + 1) * experiment.interval, experiment.tokens)
        if not self._done:
            self._fleet.send(source, Prefill(self._prompt, experiment.prefill_chunk, until))
        else:
            self._fleet.send(source, Decode(until))
        while self._done < until:
            predicted = self._predict()
            token = self._await(Token, source, TOKEN_PATIENCE_S + 10 * predicted * experiment.dilation)
            assert self._plan is not None
            rows = [1] if token.step else [
                min(experiment.prefill_chunk, len(self._prompt) - start)
                for start in range(0, len(self._prompt), experiment.prefill_chunk)
            ]  # fmt: skip
            wire = sum(plan_wire_bytes(experiment.shape, self._plan, count) for count in rows)
            self.recorder.token(token, predicted, wire)
            self.outcome.tokens.append(token.token_id)
            self.outcome.digests.append(token.logits_digest)
            self._progress(self._done)
        self._boundary += 1
        self._log.flush()

    def _predict(self) -> float:
        """The cost model's latency of the next token under the present conditions and this host's time per hop."""
        assert self._plan is not None
        observation = replace(self._observation(), hop_overhead_s=self._hop_overhead_s)
        if not self._done:
            return prefill_latency(observation, self._plan, self._experiment.prefill_chunk)
        return token_latency(observation, self._plan, observation.length)

    # --- a boundary ------------------------------------------------------------------------------------

    def _cross_boundary(self) -> None:
        assert self._placement is not None and self._plan is not None
        started = time.monotonic()
        if self._experiment.trace_clock == "token":
            self._advance_traces(float(self._done))
        self._collect()
        observation = self._observation()
        old = self._placement
        self._clock.pause()
        wanted, decision_s, reason = self._ask_policy(observation, old)
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
                self._placement = replace(old, epoch=self._epoch)
                self._exchange(Migration(self._epoch, self._names, ()), self._plan, observation, MIGRATION_PATIENCE_S)
                self.recorder.placement(self._placement, self._done)
        found = shortages(observation, None, self._placement)
        stall = self._clock.duration(time.monotonic() - started) - decision_s if moves else 0.0
        self.recorder.decision(
            epoch=self._placement.epoch, step=self._done, policy=self._policy.name, decision_s=decision_s,
            moved=len(moves), predicted_before_s=before,
            predicted_after_s=token_latency(observation, self._plan, observation.length),
            feasible=committed and not found, reason=reason or "; ".join(map(str, found)) or None, stall_s=stall,
        )  # fmt: skip
        self._enforce(self._conditions.enforce(self._boundary, committed))
        self._look()

    def _ask_policy(
        self, observation: Observation, placement: Placement | None
    ) -> tuple[Placement | None, float, str]:
        """(wanted placement or None, seconds it took, why not); raises RunFailed for a policy that misbehaves."""
        started = time.monotonic()
        try:
            wanted = self._policy.decide(observation, placement)
        except Infeasible as error:
            return None, time.monotonic() - started, str(error)
        except TestbedError:
            raise
        except Exception as error:
            raise RunFailed(
                f"policy {self._policy.name} raised {type(error).__name__} at token {self._done}: {error}"
            ) from error
        seconds = time.monotonic() - started
        check_complete(observation, wanted)
        if placement is not None and placement.moves_to(wanted):
            found = shortages(observation, placement, wanted)
            if found:
                raise RunFailed(
                    f"policy {self._policy.name} asked at token {self._done} for a placement that does not fit: "
                    f"{found[0]}"
                )
        return wanted, seconds, ""

    def _migrate(self, observation: Observation, wanted: Placement) -> Exchange:
        assert self._placement is not None
        old, length = self._placement, cached_length(observation)
        epoch = self._epoch + 1
        self._epoch = epoch
        wanted = replace(wanted, epoch=epoch)
        plan = make_plan(observation, wanted)
        shipped = self._experiment.weights == "shipped"
        moves = [
            Move(block, source, target, payload_bytes(self._experiment.shape, block, length, shipped))
            for block, source, target in old.moves_to(wanted)
        ]
        predicted = migration_delay(observation, old, wanted, length)
        self._log.event("migration_begin", self._clock.now(), step=self._done, epoch=epoch, blocks=len(moves))
        patience = max(MIGRATION_PATIENCE_S, MIGRATION_PATIENCE * predicted * self._experiment.dilation)
        requested = {(m.source, m.destination): self._path_bps(m.source, m.destination) for m in moves}
        self._moving = moves
        exchange = self._exchange(Migration(epoch, self._names, moves), plan, observation, patience)
        self._moving = []
        self.recorder.exchange(exchange, predicted, requested)
        state = exchange.migration.state
        self._log.event(f"migration_{state}", self._clock.now(), step=self._done, epoch=epoch,
                        reason=exchange.migration.reason or None)  # fmt: skip
        if state == "done":
            self._placement, self._plan = wanted, plan
            self.recorder.placement(wanted, self._done)
        return exchange

    def _exchange(self, migration: Migration, plan: Plan, observation: Observation, patience_s: float) -> Exchange:
        storage = {device.name: device.storage_Bps for device in observation.devices}
        return carry_out(
            self._fleet, migration, plan,
            length=cached_length(observation), shipped=self._experiment.weights == "shipped",
            storage_Bps=storage, timeout_s=patience_s, wait=self._pump_migration,
        )  # fmt: skip

    def _enforce(self, due: Sequence[Announcement]) -> None:
        """Squeeze memory now: a ballast grows in the device's cgroup, whatever that does to the worker."""
        if not due:
            return
        self.recorder.links(self._fleet.apply(self._conditions.target()))
        for news in due:
            self._log.event(
                "memory_enforced", self._clock.now(), step=self._done, target=f"device/{news.device}",
                quantity="memory", value=news.memory_bytes,
            )  # fmt: skip

    # --- conditions ------------------------------------------------------------------------------------

    def _advance_traces(self, until: float) -> None:
        changes, announced = self._conditions.advance(until, self._boundary)
        if not changes:
            return
        self.recorder.links(self._fleet.apply(self._conditions.target()))
        for change in changes:
            news = change.quantity == "memory" and any(f"device/{a.device}" == change.target for a in announced)
            self._log.event(
                "memory_announced" if news else "trace_applied", self._clock.now(), step=self._done,
                target=change.target, quantity=change.quantity, value=change.value,
            )  # fmt: skip

    def _observation(self) -> Observation:
        """What a policy may see now; the software's time per hop is nominal, so that decisions repeat exactly."""
        return observe(self._experiment, self._conditions, len(self._prompt), self._done)

    # --- waiting ---------------------------------------------------------------------------------------

    def _pump(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """Events within a while; traces on the time clock are replayed and memory is sampled meanwhile."""
        if self._experiment.trace_clock == "time":
            following = self._conditions.next_change_s()
            if following is not None:
                left = (following - self._clock.trace_now()) * self._clock.dilation
                if left <= 0:
                    self._advance_traces(self._clock.trace_now())
                    left = 0.0
                timeout_s = min(timeout_s, left)
        events = self._fleet.events(min(timeout_s, SAMPLE_INTERVAL_S))
        if time.monotonic() - self._sampled_s > SAMPLE_INTERVAL_S and self._placement is not None:
            self._look()
        return events

    def _await(self, kind: type[Any], device: str, patience_s: float) -> Any:
        """The next event of a kind from a device; raises RunFailed or OutOfMemory for what ends the run."""
        deadline = time.monotonic() + patience_s
        while True:
            for index, (sender, event) in enumerate(self._inbox):
                if sender == device and isinstance(event, kind):
                    del self._inbox[index]
                    return event
            if time.monotonic() >= deadline:
                links = self._conditions.target().links
                outages = [name for name, link in links.items() if not link.up_bps * link.down_bps]
                why = f"; the link of {', '.join(outages)} is at 0 bit/s" if outages else ""
                raise RunFailed(
                    f"device {device} sent no {kind.__name__} for {patience_s:.0f} s at token {self._done}{why}"
                )
            for sender, event in self._pump(max(0.0, deadline - time.monotonic())):
                self._react(sender, event)
                if isinstance(event, _ANSWERS):
                    self._inbox.append((sender, event))

    def _pump_migration(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """Like `_pump`, for a migration, which takes note of lost devices itself."""
        events = self._pump(timeout_s)
        for sender, event in events:
            if not isinstance(event, DeviceLost):
                self._react(sender, event)
        return events

    def _react(self, device: str, event: FleetEvent) -> None:
        match event:
            case DeviceLost():
                self._lost(device, event)
            case OutOfBudget():
                self._log.event("out_of_budget", self._clock.now(), step=self._done, device=device,
                                need_bytes=event.need_bytes, budget_bytes=event.budget_bytes)  # fmt: skip
                raise OutOfMemory(
                    f"device {device} ran out of memory at token {self._done}: its blocks need "
                    f"{format_bytes(event.need_bytes)}, its budget is {format_bytes(event.budget_bytes)}"
                )
            case Failed():
                self._log.event("worker_failed", self._clock.now(), device=device, reason=event.reason,
                                traceback=event.traceback)  # fmt: skip
                raise RunFailed(event.reason)
            case Collected():
                self.recorder.spans(event.spans)
                self._waits[device] = self._clock.duration(event.runqueue_wait_s)

    def _lost(self, device: str, event: DeviceLost) -> None:
        if not event.oom_killed:
            raise RunFailed(f"device {device}: its worker ended with code {event.exit_code} at token {self._done}")
        self._log.event("oom_kill", self._clock.now(), step=self._done, device=device)
        need = self._predicted_bytes()[device]
        raise OutOfMemory(
            f"device {device} ran out of memory at token {self._done}: its blocks need {format_bytes(need)}, "
            f"its budget is {format_bytes(self._conditions.enforced_memory(device))} (killed by the kernel)"
        )

    def _fail_if_lost(self, exchange: Exchange) -> None:
        if exchange.lost is not None:
            self._lost(*exchange.lost)

    # --- looking ---------------------------------------------------------------------------------------

    def _predicted_bytes(self) -> dict[str, int]:
        """What every device's blocks should weigh now; while blocks move, their new devices hold them too."""
        observation = self._observation()
        length = cached_length(observation)
        needs = device_needs(observation, self._placement, length)
        for move in self._moving:
            needs[move.destination] += resident_bytes(self._experiment.shape, move.block, length)
        return needs

    def _look(self) -> Samples:
        self._sampled_s = time.monotonic()
        samples = self._fleet.observe()
        budgets = {name: self._conditions.enforced_memory(name) for name in self._names}
        self.recorder.samples(samples, budgets, self._predicted_bytes(), self._waits)
        return samples

    def _collect(self) -> None:
        """Have every worker hand over its spans, and look at memory and queues."""
        self._requests += 1
        for device in self._names:
            self._fleet.send(device, Collect(self._requests))
        for device in self._names:
            self._await(Collected, device, TOKEN_PATIENCE_S)
        self._look()

