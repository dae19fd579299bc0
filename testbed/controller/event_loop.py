"""What happens while the main loop waits: traces are replayed, memory is measured, lost devices end the run.

The main loop waits for everything here, so that no change of a trace is late because of a long wait, and so that a
device's death is noticed at once. It decides nothing, and of the run's state it writes only which devices are lost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from testbed.controller.conditions import Conditions, observe
from testbed.controller.delays import DelayRecord
from testbed.controller.faults import Faults
from testbed.controller.fleet import DeviceLost, Fleet, FleetEvent, HostUsage, Samples, TargetState
from testbed.controller.measured import Measured
from testbed.controller.migration_driver import MigrationDriver, MigrationResult
from testbed.controller.pass_numbers import PassNumbers
from testbed.controller.probing import Probe as LinkProbe
from testbed.controller.reconciling import without
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.controller.suspects import LOOK_S
from testbed.controller.trace_replay import TraceReplay
from testbed.errors import ConfigError, OutOfMemory, RunFailed
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, resident_bytes
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import cached_length
from testbed.placement.observation import Observation
from testbed.runlog.folder import RunLog
from testbed.transport.copying import Halted
from testbed.transport.messages import (
    Arrived,
    Collect,
    Collected,
    Command,
    Failed,
    Interrupted,
    Load,
    Loaded,
    OutOfBudget,
    Paced,
    Pinged,
    Probe,
    Probed,
    Rebuilt,
    Token,
)
from testbed.units import format_bytes

# Wall seconds.
START_PATIENCE_S = 300.0  # for loading all blocks
COLLECT_PATIENCE_S = 60.0  # for a worker to hand over its spans
RETURN_LOOK_S = 1.0  # between two looks at a device that is to return
LOSS_PATIENCE_S = 1.0  # for the fleet to report the loss of a device that cannot be reached

_ANSWERS = (Loaded, Token, Halted, Pinged, Probed, Paced, Collected, Interrupted, Rebuilt)


class EventLoop:
    """Waits for events of the fleet, and keeps traces, measurements and the run log up to date meanwhile."""

    def __init__(
        self,
        experiment: Experiment,
        prompt_tokens: int,
        fleet: Fleet,
        conditions: Conditions,
        state: RunState,
        recorder: Recorder,
        log: RunLog,
        hop_overhead_s: float,
    ) -> None:
        self._experiment, self._prompt_tokens, self._fleet = experiment, prompt_tokens, fleet
        self._hop_overhead_s = hop_overhead_s
        measured = experiment.observation == "measured"
        self._measured = Measured(experiment, prompt_tokens, fleet, hop_overhead_s) if measured else None
        self._conditions, self._state = conditions, state
        self._recorder, self._log = recorder, log
        self.faults = Faults(experiment, fleet, state, recorder, log)
        self.delays = DelayRecord(experiment, fleet.clock, fleet.burst_bits)
        self.traces = TraceReplay(
            experiment, fleet, conditions, state, recorder, log, self.delays, self.faults.strike
        )  # fmt: skip
        self.passes = PassNumbers(-(-prompt_tokens // experiment.prefill_chunk))
        self._clock = fleet.clock
        self._names = [device.name for device in experiment.topology.devices]
        self._waits: dict[str, float] = {}  # device -> seconds that it has waited for a core, emulated
        # At the last collection: device -> (emulated time, tokens done, seconds waited), and (tokens done, usage).
        self._collected: dict[str, tuple[float, int, float]] = {}
        self._host: tuple[int, HostUsage] | None = None
        self.copying: MigrationDriver | None = None  # copies blocks while tokens go on, and hears all events
        self.replicating: Callable[[str, FleetEvent], None] | None = None  # hears all events
        self._disturbed = False  # whether copies have been on the links in the present interval
        self.probed = False  # whether the last observation needed a probe
        self._requests, self._sampled_s = 0, 0.0
        self._unheard: deque[tuple[str, FleetEvent]] = deque()  # received, and not yet reacted to
        self._answers: list[tuple[str, FleetEvent]] = []  # received, and not yet asked for

    # --- conditions ------------------------------------------------------------------------------------

    def living(self) -> list[str]:
        """The devices that are not lost."""
        return [name for name in self._names if name not in self._state.lost]

    def observation(self) -> Observation:
        """What a policy may see now. The software's time per hop is the calibrated one, so that decisions repeat."""
        self.traces.catch_up()
        progress = self._prompt_tokens, self._state.tokens_done, self._hop_overhead_s
        seen = without(observe(self._experiment, self._conditions, *progress), self._state.lost)
        return replace(seen, replicas=self._state.replicas) if self._state.replicas else seen

    def seen(self, needs_links: bool, noted: bool = True) -> Observation:
        """What the policy is shown at a boundary: the truth, or what has been seen of it (`observation: measured`).

        Links of which nothing has been seen lately are probed before, if the policy needs them. While blocks are copied
        a burst would have only a share of its links. Estimates are noted for a decision.
        """
        truth, self.probed = self.observation(), False
        if self._measured is None:
            return truth
        if self._state.placement is None:
            self._measured.samples(self._fleet.observe())
        for probe in self._measured.end_interval(needs_links and self.copying is None, self._state.lost):
            longer: LinkProbe | None = probe
            while longer is not None:
                longer = self._probe(longer)
        self._measured.end_probes()
        seen = without(self._measured.observation(truth, self._conditions.announced_memory()), self._state.lost)
        rows = self._measured.rows(truth, seen)
        self._recorder.estimates(rows if noted else ())
        return seen

    def _probe(self, probe: LinkProbe) -> LinkProbe | None:
        """Carry out a probe. One that nobody receives in time tells at most the rate at which it would have come.

        Returns the longer one that is to follow.
        """
        assert self._measured is not None
        self.probed = True
        sender, receiver, size, _ = probe
        self._answers = [each for each in self._answers if not isinstance(each[1], Probed)]  # those that came too late
        patience_s = self._measured.patience_s(probe) * self._clock.dilation
        started_s = self._clock.wall()
        self.send(sender, Probe(receiver, size))
        found: Probed | None = self._answer_within(Probed, receiver, patience_s, source=sender, size=size)
        seconds = patience_s if found is None else found.seconds
        since_sent_s = None if found is None else self._clock.duration(found.since_sent_s)
        longer = self._measured.probed(probe, self._clock.duration(seconds), since_sent_s)
        requested_bps = self.traces.target().rate_bps(self._experiment.topology.route(sender, receiver))
        self._recorder.rate(started_s, seconds, sender, receiver, size, requested_bps, "probe")
        return longer

    def migrated(self, result: MigrationResult) -> None:
        """Take note of a migration that has ended."""
        if self._measured is not None:
            self._measured.migrated(result)

    # --- waiting ---------------------------------------------------------------------------------------

    def _pump(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """Events that come within so many seconds; replays traces on the time clock and measures memory meanwhile."""
        timeout_s = min(timeout_s, self.traces.apply_due(), self._fleet.sample_interval_s)
        heard = self._fleet.events(min(timeout_s, LOOK_S) if self._fleet.beating else timeout_s)
        events = [(device, event) for device, event in heard if not self.faults.takes(device, event)]
        events += self.faults.suspect(self.traces.target())
        self.traces.note_replayed()
        if self._clock.wall() - self._sampled_s > self._fleet.sample_interval_s and self._state.placement is not None:
            self.sample()
        return events

    def answer(self, kind: type[Any] | tuple[type[Any], ...], device: str, patience_s: float) -> Any:
        """Wait for a device's next event of a kind, or of one of several.

        The time in which traces hold up a link or a device does not count, if they let it go again. Raises RunFailed or
        OutOfMemory for what ends the run meanwhile.
        """
        found = self._answer_within(kind, device, patience_s, self.traces.hold_up)
        if found is None:
            first = kind[0] if isinstance(kind, tuple) else kind
            raise RunFailed(
                f"device {device} sent no {first.__name__} for {patience_s:.0f} s at token {self._state.tokens_done}"
                f"{_what_holds_up(self.traces.target())}"
            )
        return found

    def _answer_within(
        self,
        kind: type[Any] | tuple[type[Any], ...],
        device: str,
        patience_s: float,
        hold_up: Callable[[], bool] = lambda: False,
        **wanted: object,
    ) -> Any | None:
        deadline = self._clock.wall() + patience_s
        while True:
            self.hear(())
            for index, (sender, event) in enumerate(self._answers):
                if sender != device or not isinstance(event, kind):
                    continue
                if all(getattr(event, k) == wanted[k] for k in wanted):
                    del self._answers[index]
                    return event
            if hold_up():
                deadline = self._clock.wall() + patience_s
            if self._clock.wall() >= deadline:
                return None
            self.hear(self._pump(max(0.0, deadline - self._clock.wall())))

    def hear(self, events: Iterable[tuple[str, FleetEvent]]) -> None:
        """React to events, and keep answers. If one ends the interval or the run, those after it are kept for later."""
        self._unheard += events
        while self._unheard:
            sender, event = self._unheard.popleft()
            if isinstance(event, _ANSWERS):
                self._answers.append((sender, event))
            self._react(sender, event)
        self.faults.proceed()

    def listen(self) -> None:
        """React to what has happened, without waiting."""
        self.hear(self._pump(0.0))

    def await_killed(self) -> None:
        """Wait until the devices that a trace has killed are lost: no token may come before, needed or not."""
        while self.faults.dying:
            self.hear(self._pump(LOOK_S))

    def offer_returned(self) -> list[str]:
        """Show the policy the devices that have returned, and return them; on the token clock, wait for all."""
        while self._experiment.trace_clock == "token" and self.faults.returning:
            self.hear(self._pump(RETURN_LOOK_S))
        offered = self.faults.offer()
        for device in offered:
            self._collected.pop(device, None)  # the new worker's waits are counted from the next collection on
            if self._measured is not None:
                self._measured.restarted(device)
        return offered

    def take_tokens(self) -> list[Token]:
        """The tokens that have been reported and not yet asked for; all other such answers are forgotten."""
        found, self._answers = [event for _, event in self._answers if isinstance(event, Token)], []
        return found

    def send(self, device: str, command: Command) -> None:
        """Send a command; for a device that is gone, raise what became of it."""
        try:
            self._fleet.send(device, command)
        except RunFailed:
            self.raise_losses()
            raise

    def raise_losses(self) -> None:
        """Raise what became of a device that could not be reached, if the fleet reports its loss."""
        deadline = self._clock.wall() + LOSS_PATIENCE_S
        while (left := deadline - self._clock.wall()) > 0:
            self.hear(self._pump(left))

    def load(self, placement: Placement) -> None:
        """Have every living device load its blocks of a placement, and the source what is pinned to it."""
        for device in self.living():
            blocks = [str(block) for block in placement.on(device)]
            self.send(device, Load(blocks, pinned=device == self._experiment.topology.source))
        for device in self.living():
            self.answer(Loaded, device, START_PATIENCE_S)

    def migration_events(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """React to the events that come within so many seconds, and return them for a migration to take its steps."""
        heard = self._pump(0.0 if self._unheard else timeout_s)
        events = [*self._unheard, *heard]
        # A fleet without regular measurements is measured when memory is fullest.
        if math.isinf(self._fleet.sample_interval_s) and any(isinstance(event, Arrived) for _, event in events):
            self.sample()
        self.hear(heard)
        return events

    def _react(self, device: str, event: FleetEvent) -> None:
        if self.replicating is not None:
            self.replicating(device, event)
        if self.copying is not None:
            self._disturbed = True
            self.copying.hear(device, event)
        match event:
            case DeviceLost():
                budget_bytes = self._conditions.enforced_memory(device)
                self.faults.lose(device, event, self._predicted_bytes()[device], budget_bytes)
            case OutOfBudget() if self.copying is not None and self.copying.gives_back(device):
                self.copying.abort(f"device {device} has no more memory for both placements")
            case OutOfBudget():
                self._log.event("out_of_budget", self._clock.now(), step=self._state.tokens_done, device=device,
                                need_bytes=event.need_bytes, budget_bytes=event.budget_bytes)  # fmt: skip
                self.faults.give_up_where_survivable(device, event)
                raise OutOfMemory(
                    f"device {device} ran out of memory at token {self._state.tokens_done}: its blocks need "
                    f"{format_bytes(event.need_bytes)}, its budget is {format_bytes(event.budget_bytes)}"
                )
            case Failed():
                self._log.event("worker_failed", self._clock.now(), device=device, reason=event.reason,
                                traceback=event.traceback)  # fmt: skip
                raise ConfigError(event.reason) if event.configuration else RunFailed(event.reason)
            case Collected():
                spans = self.passes.renumbered(event.spans)
                self._recorder.spans(spans)
                self.delays.hear(spans)
                if self._measured is not None:
                    self._measured.spans(spans)
                self._waits[device] = self._clock.duration(event.runqueue_wait_s)
                self.faults.heard_late(device, dict(event.late))
                if not event.request:
                    return  # the startup calibration asked for it
                now_s = self._clock.now()
                begun_s, step, waited_s = self._collected.get(device, (now_s, self._state.tokens_done, 0.0))
                if self._state.tokens_done > step:
                    last = self._state.tokens_done - 1
                    self._recorder.wait(device, step, last, self._waits[device] - waited_s, now_s - begun_s)
                self._collected[device] = (now_s, self._state.tokens_done, self._waits[device])

    # --- measuring --------------------------------------------------------------------------------------

    def _predicted_bytes(self) -> dict[str, int]:
        """What every device's blocks should need now. A block on its way counts on both of its devices."""
        observation = self.observation()
        length = cached_length(observation)
        needs = device_needs(observation, self._state.placement, length)
        for move in self._state.moving:
            needs[move.destination] += resident_bytes(
                self._experiment.shape, move.block, length, self._experiment.partition
            )
        return needs

    def sample(self) -> Samples:
        """Record every device's memory and every link's queue as they are now."""
        self._sampled_s = self._clock.wall()
        samples = self._fleet.observe()
        if self._measured is not None:
            self._measured.samples(samples)
        budgets = {name: self._conditions.enforced_memory(name) for name in self._names}
        self._recorder.samples(samples, budgets, self._predicted_bytes(), self._waits)
        self.delays.count(samples.links)
        return samples

    def collect(self) -> None:
        """Have every worker hand over its spans, and record memory, queues and the host's use."""
        self._requests += 1
        for device in self.living():
            self.send(device, Collect(self._requests))
        for device in self.living():
            self.answer(Collected, device, COLLECT_PATIENCE_S)
        disturbed, self._disturbed = self._disturbed, self.copying is not None
        self.delays.end_interval(disturbed)
        self.faults.record_late()
        used = self.sample().host
        if used is not None:
            if self._host is not None and self._state.tokens_done > self._host[0]:
                self._recorder.host(self._host[0], self._state.tokens_done - 1, self._host[1], used)
            self._host = (self._state.tokens_done, used)


def _what_holds_up(target: TargetState) -> str:
    """What the traces hold up now, as `; the link of b is at 0 bit/s; device c is paused`; else an empty text."""
    outages = [name for name, link in target.links.items() if not link.up_bps * link.down_bps]
    paused = [name for name, device in target.devices.items() if device.paused]
    told = f"; the link of {', '.join(outages)} is at 0 bit/s" if outages else ""
    if paused:
        told += f"; device{'s' * (len(paused) > 1)} {', '.join(paused)} {'are' if len(paused) > 1 else 'is'} paused"
    return told
