"""What goes on between commands: answers awaited, traces replayed on the time clock, memory watched, losses told.

Everything the main loop waits for, it waits for here, so that no trace row is late because of a long wait and
a device that dies ends the run with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from testbed.controller.calibration import NOMINAL_HOP_S
from testbed.controller.conditions import Announcement, Conditions, observe
from testbed.controller.fleet import DeviceLost, Fleet, FleetEvent, HostUsage, LinkSample, Samples, TargetState
from testbed.controller.migration import Move
from testbed.controller.recorder import Recorder
from testbed.errors import ConfigError, OutOfMemory, RunFailed
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import Placement, resident_bytes
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import cached_length
from testbed.placement.observation import Observation
from testbed.runlog.folder import RunLog
from testbed.transport.messages import (
    Arrived,
    Collect,
    Collected,
    Command,
    Failed,
    Loaded,
    OutOfBudget,
    Paced,
    Pinged,
    Probed,
    Token,
)
from testbed.units import format_bytes

COLLECT_PATIENCE_S = 60.0  # wall seconds for a worker to hand over its spans
LOSS_PATIENCE_S = 1.0  # wall seconds for the loss of a device that cannot be reached to be told

_ANSWERS = (Loaded, Token, Pinged, Probed, Paced, Collected)


class Watch:
    """The run as it stands, and all that happens while the main loop waits.

    The main loop keeps `tokens_done`, `boundary` (index of the coming decision, or of the one being made),
    `placement` and `moving` up to date.
    """

    def __init__(
        self,
        experiment: Experiment,
        prompt_tokens: int,
        fleet: Fleet,
        conditions: Conditions,
        recorder: Recorder,
        log: RunLog,
        hop_overhead_s: float = NOMINAL_HOP_S,
    ) -> None:
        self._experiment, self._prompt_tokens, self._fleet = experiment, prompt_tokens, fleet
        self._hop_overhead_s = hop_overhead_s
        self._conditions, self._recorder, self._log = conditions, recorder, log
        self._clock = fleet.clock
        self._names = [device.name for device in experiment.topology.devices]
        self.tokens_done = 0
        self.boundary = 0
        self.placement: Placement | None = None
        self.moving: Sequence[Move] = ()
        self._waits: dict[str, float] = {}
        self._collected: dict[str, tuple[float, int, float]] = {}  # device -> (when, tokens done, waited) at the last
        self._host: tuple[int, HostUsage] | None = None  # (tokens done, what had been used) at the last
        self._requests = 0
        self._sampled_s = 0.0
        self._inbox: list[tuple[str, FleetEvent]] = []  # answers not yet awaited

    # --- conditions ------------------------------------------------------------------------------------

    def observation(self) -> Observation:
        """What a policy may see now; the software's time per hop is the host's known one, so that decisions repeat."""
        self._catch_up()
        done = self.tokens_done
        return observe(self._experiment, self._conditions, self._prompt_tokens, done, self._hop_overhead_s)

    def changes(self) -> int:
        """How often the conditions have changed so far."""
        self._catch_up()
        return self._conditions.changes

    def target(self) -> TargetState:
        """What the fleet should be now."""
        self._catch_up()
        return self._conditions.target()

    def _catch_up(self) -> None:
        """Take note of what the fleet should have replayed by itself meanwhile; what is to be applied here waits."""
        if not self._fleet.replayed:
            return
        now, following = self._clock.trace_now(), self._conditions.next_change_s()
        until = now if following is None else min(now, math.nextafter(following, -math.inf))
        if until > self._conditions.time:
            self._conditions.advance(until, self.boundary)

    def advance_traces(self, until: float) -> None:
        """Apply what the traces change up to `until` on their clock; memory decreases are only announced.

        What the fleet replays by itself is only taken note of.
        """
        changes, announced = self._conditions.advance(until, self.boundary)
        changes = [change for change in changes if (change.target, change.quantity) not in self._fleet.replayed]
        if not changes:
            return
        changed = self._fleet.apply(self._conditions.target())
        if self._experiment.trace_clock == "time":  # late by when it was done, against when the trace has it
            lag_s = self._clock.trace_now() - min(change.time_s for change in changes)
            changed = [replace(sample, lag_s=lag_s) for sample in changed]
        self._recorder.links(changed)
        for change in changes:
            news = change.quantity == "memory" and any(f"device/{a.device}" == change.target for a in announced)
            self._log.event(
                "memory_announced" if news else "trace_applied", self._clock.now(), step=self.tokens_done,
                target=change.target, quantity=change.quantity, value=change.value,
            )  # fmt: skip

    def _record_replayed(self, samples: Sequence[LinkSample]) -> None:
        self._recorder.links(samples)
        for sample in samples:
            self._log.event(
                "trace_applied", sample.t_s, step=self.tokens_done, target=f"link/{sample.device}",
                quantity=sample.direction, value=sample.requested_bps,
            )  # fmt: skip

    def end_replay(self) -> None:
        """Have the fleet replay nothing more, and record the last of it."""
        self._record_replayed(self._fleet.end_replay())

    def enforce(self, due: Sequence[Announcement]) -> None:
        """Squeeze memory now: a ballast grows in the device's cgroup, whatever that does to the worker."""
        if not due:
            return
        self._recorder.links(self._fleet.apply(self._conditions.target()))
        for news in due:
            self._log.event(
                "memory_enforced", self._clock.now(), step=self.tokens_done, target=f"device/{news.device}",
                quantity="memory", value=news.memory_bytes,
            )  # fmt: skip

    # --- waiting ---------------------------------------------------------------------------------------

    def _pump(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """Events within a while; traces on the time clock are replayed and memory is sampled meanwhile."""
        if self._experiment.trace_clock == "time":
            following = self._conditions.next_change_s()
            if following is not None:
                left = (following - self._clock.trace_now()) * self._clock.dilation
                if left <= 0:
                    self.advance_traces(self._clock.trace_now())
                    left = 0.0
                timeout_s = min(timeout_s, left)
        events = self._fleet.events(min(timeout_s, self._fleet.sample_interval_s))
        self._record_replayed(self._fleet.replay_reports())
        if self._clock.wall() - self._sampled_s > self._fleet.sample_interval_s and self.placement is not None:
            self.look()
        return events

    def answer(self, kind: type[Any], device: str, patience_s: float) -> Any:
        """The next event of a kind from a device; raises RunFailed or OutOfMemory for what ends the run."""
        deadline = self._clock.wall() + patience_s
        while True:
            for index, (sender, event) in enumerate(self._inbox):
                if sender == device and isinstance(event, kind):
                    del self._inbox[index]
                    return event
            if self._clock.wall() >= deadline:
                raise RunFailed(
                    f"device {device} sent no {kind.__name__} for {patience_s:.0f} s at token {self.tokens_done}"
                    f"{_standing(self.target())}"
                )
            for sender, event in self._pump(max(0.0, deadline - self._clock.wall())):
                self._react(sender, event)
                if isinstance(event, _ANSWERS):
                    self._inbox.append((sender, event))

    def send(self, device: str, command: Command) -> None:
        """Send a command; for a device that is gone, raises what became of it."""
        try:
            self._fleet.send(device, command)
        except RunFailed:
            self.tell_losses()
            raise

    def tell_losses(self) -> None:
        """Raise what became of a device that could not be reached, if the fleet knows."""
        for sender, event in self._fleet.events(LOSS_PATIENCE_S):
            self._react(sender, event)

    def migration_events(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """Like `_pump`, for a migration, which takes note of lost devices itself.

        Where nobody looks every so often, it is when blocks have arrived that memory is fullest.
        """
        events = self._pump(timeout_s)
        if math.isinf(self._fleet.sample_interval_s) and any(isinstance(event, Arrived) for _, event in events):
            self.look()
        for sender, event in events:
            if not isinstance(event, DeviceLost):
                self._react(sender, event)
        return events

    def _react(self, device: str, event: FleetEvent) -> None:
        match event:
            case DeviceLost():
                self.lost(device, event)
            case OutOfBudget():
                self._log.event("out_of_budget", self._clock.now(), step=self.tokens_done, device=device,
                                need_bytes=event.need_bytes, budget_bytes=event.budget_bytes)  # fmt: skip
                raise OutOfMemory(
                    f"device {device} ran out of memory at token {self.tokens_done}: its blocks need "
                    f"{format_bytes(event.need_bytes)}, its budget is {format_bytes(event.budget_bytes)}"
                )
            case Failed():
                self._log.event("worker_failed", self._clock.now(), device=device, reason=event.reason,
                                traceback=event.traceback)  # fmt: skip
                raise ConfigError(event.reason) if event.configuration else RunFailed(event.reason)
            case Collected():
                self._recorder.spans(event.spans)
                self._waits[device] = self._clock.duration(event.runqueue_wait_s)
                if not event.request:
                    return  # asked for by the calibration, before token 0
                begun_s, step, waited_s = self._collected.get(device, (0.0, 0, 0.0))
                now_s = self._clock.now()
                if self.tokens_done > step:
                    last = self.tokens_done - 1
                    self._recorder.wait(device, step, last, self._waits[device] - waited_s, now_s - begun_s)
                self._collected[device] = (now_s, self.tokens_done, self._waits[device])

    def lost(self, device: str, event: DeviceLost) -> None:
        """Raise OutOfMemory or RunFailed for a device whose worker has ended."""
        if not event.oom_killed:
            ended = f"its worker ended with code {event.exit_code} at token {self.tokens_done}"
            raise RunFailed(f"device {device}: {ended}")
        self._log.event("oom_kill", self._clock.now(), step=self.tokens_done, device=device)
        need = self._predicted_bytes()[device]
        raise OutOfMemory(
            f"device {device} ran out of memory at token {self.tokens_done}: its blocks need "
            f"{format_bytes(need)}, its budget is {format_bytes(self._conditions.enforced_memory(device))} "
            "(killed by the kernel)"
        )

    # --- looking ---------------------------------------------------------------------------------------

    def _predicted_bytes(self) -> dict[str, int]:
        """What every device's blocks should weigh now; while blocks move, their new devices hold them too."""
        observation = self.observation()
        length = cached_length(observation)
        needs = device_needs(observation, self.placement, length)
        for move in self.moving:
            needs[move.destination] += resident_bytes(
                self._experiment.shape, move.block, length, self._experiment.partition
            )
        return needs

    def look(self) -> Samples:
        """Record every device's memory and every link's queue as they are now."""
        self._sampled_s = self._clock.wall()
        samples = self._fleet.observe()
        budgets = {name: self._conditions.enforced_memory(name) for name in self._names}
        self._recorder.samples(samples, budgets, self._predicted_bytes(), self._waits)
        return samples

    def collect(self) -> None:
        """Have every worker hand over its spans, and look at memory and queues."""
        self._requests += 1
        for device in self._names:
            self.send(device, Collect(self._requests))
        for device in self._names:
            self.answer(Collected, device, COLLECT_PATIENCE_S)
        used = self.look().host
        if used is not None:
            if self._host is not None and self.tokens_done > self._host[0]:
                self._recorder.host(self._host[0], self.tokens_done - 1, self._host[1], used)
            self._host = (self.tokens_done, used)


def _standing(target: TargetState) -> str:
    """`; the link of b is at 0 bit/s; device c is paused`: what the traces hold up now, or nothing."""
    outages = [name for name, link in target.links.items() if not link.up_bps * link.down_bps]
    paused = [name for name, device in target.devices.items() if device.paused]
    told = f"; the link of {', '.join(outages)} is at 0 bit/s" if outages else ""
    if paused:
        told += f"; device{'s' * (len(paused) > 1)} {', '.join(paused)} {'are' if len(paused) > 1 else 'is'} paused"
    return told
