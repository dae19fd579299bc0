"""The clock that converts between wall time and the emulated time of a run.

With `dilation` k, the emulation is k times slower than life: an emulated second takes k wall seconds, a link of r bit/s
is shaped to r/k, and all reports are in emulated time. The clock of a simulation uses a `VirtualTime` as its wall time,
which passes only when the simulation advances it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ClockState:
    """The state of a running clock in monotonic wall seconds; another process can compute the time from it."""

    zero_s: float
    paused_total_s: float  # the sum of all finished pauses
    paused_at_s: float | None  # None while the clock runs


class VirtualTime:
    """Wall time that passes only through `advance`; calling it returns the time, like `time.monotonic`."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        """The virtual time in seconds."""
        return self._now_s

    def advance(self, until_s: float) -> None:
        """Let time pass until `until_s`; it never goes back."""
        self._now_s = max(self._now_s, until_s)


class EmulatedClock:
    """Emulated seconds since token 0, and a trace clock that pauses, for example while a policy decides.

    `wall` returns the wall time in seconds, in which fleets give timestamps and controllers set deadlines.
    """

    def __init__(self, dilation: float = 1.0, wall: Callable[[], float] = time.monotonic) -> None:
        self.dilation = dilation
        self.wall = wall
        self._zero_s: float | None = None
        self._first_s = 0.0  # emulated, at the start
        self._paused_at_s: float | None = None
        self._paused_total_s = 0.0
        self._followers: list[Callable[[ClockState], None]] = []

    def follow(self, follower: Callable[[ClockState], None]) -> None:
        """Call `follower` whenever the clock starts, pauses or resumes; and now, if it has started."""
        self._followers.append(follower)
        self._tell([follower])

    def _tell(self, followers: list[Callable[[ClockState], None]]) -> None:
        if self._zero_s is not None:
            state = ClockState(self._zero_s, self._paused_total_s, self._paused_at_s)
            for follower in followers:
                follower(state)

    def go_on_from(self, now_s: float, trace_s: float) -> None:
        """Let it start at these emulated times, where a run goes on; they stand still until then."""
        self._first_s, self._paused_total_s = now_s, (now_s - trace_s) * self.dilation

    def start(self) -> None:
        """Set emulated time 0, or that at which an earlier clock of this run was left, to now."""
        self._zero_s = self.wall() - self._first_s * self.dilation
        self._tell(self._followers)

    def now(self) -> float:
        """The emulated seconds since the start, with pauses; before the start, those at which it will begin."""
        return self.at(self.wall())

    def at(self, wall_s: float) -> float:
        """The emulated seconds at a wall time."""
        return self._first_s if self._zero_s is None else (wall_s - self._zero_s) / self.dilation

    def trace_now(self) -> float:
        """The emulated seconds since the start without pauses, which are the time of traces."""
        wall = self.wall() if self._paused_at_s is None else self._paused_at_s
        return max(0.0, self.at(wall) - self._paused_total_s / self.dilation)

    def pause(self) -> None:
        """Stop the trace clock; before the start it stands still anyway."""
        if self._paused_at_s is None and self._zero_s is not None:
            self._paused_at_s = self.wall()
            self._tell(self._followers)

    def resume(self) -> None:
        """Let the trace clock run again."""
        if self._paused_at_s is not None:
            self._paused_total_s += self.wall() - self._paused_at_s
            self._paused_at_s = None
            self._tell(self._followers)

    def duration(self, wall_s: float) -> float:
        """The emulated seconds of a duration on the wall."""
        return wall_s / self.dilation
