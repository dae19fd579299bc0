"""Carries out what the traces of a run change: through the fleet, or noted where the fleet replays by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from testbed.controller.conditions import Announcement, Conditions
from testbed.controller.delays import DelayRecord
from testbed.controller.fleet import Fleet, LinkSample, TargetState
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import RunLog
from testbed.traces.quantities import STRIKES


class TraceReplay:
    """The traces of one run. `strike(device, quantity)` kills a device or starts it anew."""

    def __init__(
        self,
        experiment: Experiment,
        fleet: Fleet,
        conditions: Conditions,
        state: RunState,
        recorder: Recorder,
        log: RunLog,
        delays: DelayRecord,
        strike: Callable[[str, str], None],
    ) -> None:
        self._on_tokens = experiment.trace_clock == "token"
        self._fleet, self._conditions, self._state = fleet, conditions, state
        self._recorder, self._log, self._delays, self._strike = recorder, log, delays, strike
        self._clock = fleet.clock

    def begin(self) -> None:
        """Make the fleet what it should be at the start, but for what would hold it up."""
        self._conditions.begin()
        self.apply(self._conditions.bearable())

    def strike_first(self) -> None:
        """On the time clock, kill and start anew at time 0 what the traces say, once the clock has started."""
        if not self._on_tokens and not self._conditions.time:
            for target, quantity in sorted(self._conditions.strikes()):
                self._strike(target.removeprefix("device/"), quantity)

    def apply(self, target: TargetState | None = None) -> None:
        """Make the fleet what the target says, or what it should be now."""
        target = self._conditions.target() if target is None else target
        self._recorder.links(self._fleet.apply(target))
        self._delays.asked(target, self._clock.wall())

    def changes(self) -> int:
        """How often the conditions have changed so far."""
        self.catch_up()
        return self._conditions.changes

    def target(self) -> TargetState:
        """What the fleet should be now."""
        self.catch_up()
        return self._conditions.target()

    def hold_up(self) -> bool:
        """Whether traces on the time clock hold up a link or a device now that they will let go again."""
        self.catch_up()
        return not self._on_tokens and self._conditions.hold_up()

    def catch_up(self) -> None:
        """Take note of what the fleet has replayed by itself meanwhile; stop before a change that we must apply."""
        if not self._fleet.replayed:
            return
        now, following = self._clock.trace_now(), self._conditions.next_change_s()
        until = now if following is None else min(now, math.nextafter(following, -math.inf))
        if until > self._conditions.time:
            self._conditions.advance(until, self._state.boundary)

    def apply_due(self) -> float:
        """On the time clock, apply what is due; returns the wall seconds until the next change."""
        following = None if self._on_tokens else self._conditions.next_change_s()
        if following is None:
            return math.inf
        left_s = (following - self._clock.trace_now()) * self._clock.dilation
        if left_s > 0:
            return left_s
        self.advance(self._clock.trace_now())
        return 0.0

    def advance(self, until: float) -> None:
        """Apply what the traces change up to `until` on their clock. Memory decreases are announced, not applied.

        What the fleet replays by itself is noted, and applied by the fleet.
        """
        changes, announced = self._conditions.advance(until, self._state.boundary)
        changes = [change for change in changes if (change.target, change.quantity) not in self._fleet.replayed]
        if self._on_tokens:
            changes = [change for change in changes if change.quantity not in STRIKES]  # they act at their token
        if not changes:
            return
        self.note_replayed()
        changed = self._fleet.apply(self._conditions.target())
        self._delays.asked(self._conditions.target(), self._clock.wall())
        if not self._on_tokens:  # how late the change is in force
            lag_s = self._clock.trace_now() - min(change.time_s for change in changes)
            changed = [replace(sample, lag_s=lag_s) for sample in changed]
        self._recorder.links(changed)
        for change in changes:
            news = change.quantity == "memory" and any(f"device/{a.device}" == change.target for a in announced)
            self._log.event(
                "memory_announced" if news else "trace_applied", self._clock.now(), step=self._state.tokens_done,
                target=change.target, quantity=change.quantity, value=change.value,
            )  # fmt: skip
            if change.quantity in STRIKES and change.value:
                self._strike(change.target.removeprefix("device/"), change.quantity)

    def enforce(self, due: Sequence[Announcement]) -> None:
        """Apply the memory decreases that are due, whatever that does to the workers."""
        if not due:
            return
        self._recorder.links(self._fleet.apply(self._conditions.target()))
        for news in due:
            self._log.event(
                "memory_enforced", self._clock.now(), step=self._state.tokens_done, target=f"device/{news.device}",
                quantity="memory", value=news.memory_bytes,
            )  # fmt: skip

    def note_replayed(self) -> None:
        """Record the changes that the fleet has made by itself."""
        self._record(self._fleet.replay_reports())

    def end(self) -> None:
        """Have the fleet stop replaying, and record the last changes that it made."""
        self._record(self._fleet.end_replay())

    def _record(self, samples: Sequence[LinkSample]) -> None:
        self._recorder.links(samples)
        for sample in samples:
            ago_s = 0.0 if sample.t_s is None else (self._clock.now() - sample.t_s) * self._clock.dilation
            self._delays.replayed(sample, self._clock.wall() - ago_s)
            self._log.event(
                "trace_applied", sample.t_s, step=self._state.tokens_done, target=f"link/{sample.device}",
                quantity=sample.direction, value=sample.requested_bps,
            )  # fmt: skip
