"""The main loop of a run: start, place the first blocks; then cross a boundary and generate λ tokens in turn.

The source generates the tokens of an interval by itself and reports each one, so the controller is not on a token's
path. The loop knows a fleet by its protocol alone. What happens while it waits is `event_loop`'s business, and
a boundary is `boundary`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from testbed.controller.boundary import Boundary
from testbed.controller.calibration import NOMINAL, HostCalibration
from testbed.controller.conditions import Conditions
from testbed.controller.deciding import Decider
from testbed.controller.device_state import DeviceState
from testbed.controller.event_loop import START_PATIENCE_S, EventLoop
from testbed.controller.fleet import Fleet
from testbed.controller.journal import Journal
from testbed.controller.link_errors import DELAY_FLOORS
from testbed.controller.live_migration import LiveMigrations
from testbed.controller.losses import DeviceGone, NotSurvived
from testbed.controller.migration import Migration
from testbed.controller.recorder import Recorder
from testbed.controller.recovery import Recovery
from testbed.controller.replication import Replication
from testbed.controller.resuming import Resumption
from testbed.controller.run_state import RunState
from testbed.controller.startup_calibration import Calibrated, Effort, calibrate
from testbed.controller.strikes import Strikes
from testbed.controller.token_forecast import TokenForecast
from testbed.errors import OutOfMemory, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import chunk_rows, token_latency
from testbed.placement.observation import Policy
from testbed.placement.plan import make_plan
from testbed.runlog.folder import RunLog
from testbed.runlog.journal import Past
from testbed.traces.quantities import RESTART
from testbed.transport.copying import Halted
from testbed.transport.messages import Decode, Prefill, Token

# Wall seconds. A run fails when no token comes for TOKEN_PATIENCE_S and ten times the predicted latency.
TOKEN_PATIENCE_S = 60.0

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
    token in `ends` ends the text. With a `past`, it goes on with the run that this journal tells of.
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
        past: Past | None = None,
    ) -> None:
        self._experiment, self._prompt = experiment, list(prompt)
        self._fleet, self._policy, self._log, self._progress = fleet, policy, log, progress
        self._clock = fleet.clock
        self._names = [device.name for device in experiment.topology.devices]
        self._conditions = Conditions(experiment, fleet.replayed)
        chunks = -(-len(self._prompt) // experiment.prefill_chunk)
        self.recorder = Recorder(log, self._clock, chunks)
        hop_s = host.hop_overhead_s / experiment.dilation
        self._state = RunState({name: DeviceState(name) for name in self._names})
        self._loop = EventLoop(
            experiment, len(self._prompt), fleet, self._conditions, self._state, self.recorder, log, hop_s
        )
        self._strikes = Strikes(experiment.traces, experiment.tokens if experiment.trace_clock == "token" else -1)
        self._ends = tuple(ends)
        self.outcome = Outcome()
        self._journal = Journal(log, self._clock, self._state)
        self._decider = Decider(
            policy, experiment, self._clock, self._state, self.recorder, log, self._journal, self._loop.listen
        )
        self._live = LiveMigrations(
            experiment, fleet, self._conditions, self._state, self._loop, self.recorder, log, self._journal, policy.name
        )
        self._replication = Replication(experiment, self._loop, self._state)
        self._loop.replicating = self._replication.hear
        self._boundary = Boundary(
            experiment, fleet, self._conditions, self._state, self._loop, self._decider, self.recorder, log, self._live
        )
        self._forecast = TokenForecast(experiment, len(self._prompt), self._state, self._loop, host)
        self._recovery = Recovery(
            experiment, self._prompt, self._loop, self._state, self.recorder, self._clock, self._decider.ask,
            self._boundary.drive, lambda token: self._take(token, self._forecast.seconds()),
            lambda: self.outcome.tokens, self._over, policy.name,
        )  # fmt: skip
        self._resumption = None
        if past is not None and past.checkpoint is not None:
            self._resumption = Resumption(
                past, experiment, self._prompt, self._ends, fleet, policy, self._loop, self._state, self._recovery,
                self._boundary.drive, (self.outcome.tokens, self.outcome.digests), self._forecast.seconds,
            )  # fmt: skip
        self._effort: Effort = effort
        self.calibrated = Calibrated()

    @property
    def begun(self) -> bool:
        """Whether it has come to generating tokens, or to the run's end before."""
        return self._state.begun or self.outcome.error is not None

    # --- the run ---------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Start the fleet, generate all tokens and return how it went. The caller stops the fleet.

        The outcome holds a failure of the run, such as a lost device; a failure to start is raised.
        """
        started = time.monotonic()
        self._fleet.start()
        self._log.event("fleet_started", seconds=time.monotonic() - started)
        state = self._state
        if self._resumption is not None:
            try:
                self._resume(self._resumption)
            except NotSurvived as error:  # the run ends as it would have ended
                return self._failed(error)
        else:
            self._loop.traces.begin()
            self._calibrate()
        try:
            if self._resumption is None:
                self._place_first()
                self._journal.checkpoint()
            self._clock.start()
            self._loop.traces.apply()
            state.begun = True
            self._loop.traces.strike_first()
            while not self._over():
                self._next_interval()
            self._surviving(lambda: self._live.abort("the run has ended"))
            self._surviving(self._loop.collect)
            self._journal.checkpoint()
            self._loop.traces.end()
            self.recorder.delays(self._loop.delays.rows(DELAY_FLOORS * self.calibrated.pacing_floor_s))
            self.outcome.status = "done"
        except OutOfMemory as error:
            self.outcome.status, self.outcome.error = "oom", error
            self._log.event("status", self._clock.now(), status="oom", reason=str(error), step=state.tokens_done)
            self._loop.sample()
        except RunFailed as error:
            return self._failed(error)
        self._live.drop()
        self._recovery.close()
        return self.outcome

    def _failed(self, error: RunFailed) -> Outcome:
        self.outcome.error = error
        step = len(self.outcome.tokens)
        self._log.event("status", self._clock.now(), status="failed", reason=str(error), step=step)
        self._live.drop()
        self._recovery.close()
        return self.outcome

    def _resume(self, resumption: Resumption) -> None:
        """Come to where the journal ends, under conditions without pauses and outages; raises what prevents it."""
        self._conditions.begin()
        resumption.set_conditions(self._conditions)
        self._loop.traces.apply(self._conditions.bearable())
        self._calibrate()
        resumption.restore()
        self._journal.checkpoint()  # it may have recovered from a loss
        self._strikes.resume(self._state.tokens_done, resumption.past.killed)
        for device in sorted(resumption.past.returning):
            self._loop.faults.strike(device, RESTART)
        for done, token in enumerate(self.outcome.tokens, 1):
            self._progress(done, token)
        self._log.event("resumed", self._clock.now(), step=self._state.tokens_done)

    def _surviving(self, part: Callable[[], None]) -> None:
        """Carry out a part of the run, and again from where it stands after each recovery from a loss."""
        while True:
            try:
                return part()
            except DeviceGone:
                self._live.drop()
                self._replication.drop()
                self._recovery.run()
                self._journal.checkpoint()

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
        self._forecast.measured_hop_s = found.hop_overhead_s
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
        state, started_s = self._state, self._clock.wall()
        truth, observation = self._loop.observation(), self._loop.seen(self._decider.needs_links(first=True))
        stall_s = self._clock.duration(self._clock.wall() - started_s) if self._loop.probed else 0.0
        decision = self._decider.ask(observation, None)
        if decision.placement is None:
            raise Infeasible(f"policy {self._policy.name} has no first placement: {decision.reason}")
        state.placement = replace(decision.placement, epoch=0)
        state.plan = make_plan(observation, state.placement)
        found = shortages(truth, None, state.placement)
        self.recorder.decision(
            epoch=0, step=0, policy=self._policy.name, decision_s=decision.decision_s, moved=0,
            predicted_after_s=token_latency(truth, state.plan, truth.final_length),
            feasible=not found, reason="; ".join(map(str, found)) or None, stall_s=stall_s, proof=decision.proof,
        )  # fmt: skip
        self._loop.load(state.placement)
        migration = Migration(0, self._names, ())
        self._boundary.drive(migration, state.plan, observation, START_PATIENCE_S)
        self.recorder.placement(state.placement, 0)
        self._loop.collect()

    # --- an interval -----------------------------------------------------------------------------------

    def _next_interval(self) -> None:
        """Cross the boundary, if it has not been crossed before this run was resumed, and generate what follows it."""
        state = self._state
        if state.tokens_done >= state.boundary * self._experiment.interval:
            if self.outcome.tokens:
                self._surviving(self._boundary.cross)
            state.boundary += 1
            self._journal.checkpoint()
        self._surviving(self._generate_interval)

    def _generate_interval(self) -> None:
        """Generate λ tokens, or fewer to the end of the text; returns when the last one has been reported."""
        experiment, state = self._experiment, self._state
        end = min(state.boundary * experiment.interval, experiment.tokens)
        self._refuse_endless_outage()
        while state.tokens_done < end and not self._over():
            for device, quantity in self._strikes.take(state.tokens_done):
                self._loop.faults.strike(device, quantity)
            self._loop.await_killed()
            self._generate(self._strikes.before(end))
        self._log.flush()

    def _generate(self, until: int) -> None:
        """Have the source generate up to `until` tokens in all."""
        experiment, source, state = self._experiment, self._experiment.topology.source, self._state
        if not state.tokens_done:
            sampling = experiment.seeded_sampling
            self._loop.send(source, Prefill(self._prompt, experiment.prefill_chunk, until, self._ends, sampling))
        else:
            self._live.await_halts()
            self._loop.send(source, Decode(until))
        self._loop.delays.look()
        while state.tokens_done < until and not self._over():
            predicted = self._forecast.seconds()
            self._loop.faults.suspects.pass_s = predicted * experiment.dilation
            patience_s = TOKEN_PATIENCE_S + 10 * predicted * experiment.dilation
            news = self._loop.answer((Token, Halted), source, patience_s)
            if isinstance(news, Token):
                self._take(news, predicted)
                self._live.look_at_the_time()
                self._replication.look()
            else:
                self._live.halted()
                self._loop.send(source, Decode(until))
        self._live.await_halts()

    def _take(self, token: Token, predicted: float) -> None:
        """Note a token that the source has reported."""
        state = self._state
        rows = [1] if token.step else chunk_rows(len(self._prompt), self._experiment.prefill_chunk)
        self.recorder.token(token, predicted, sum(map(self._forecast.wire_bytes, rows)))
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
