"""One clock through which all times, rates and delays of a run pass.

With `dilation` k the emulation is k times slower than life: an emulated second takes k wall seconds, a
link of r bit/s is shaped to r/k, and every report is in emulated time. Where nothing is emulated the wall itself is
made up: the simulation's clock runs on a `VirtualTime`, which passes only as far as it is told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ClockState:
    """All that is needed to tell a running clock's time elsewhere on this host; in monotonic wall seconds."""

    zero_s: float
    paused_total_s: float  # of pauses that are over
    paused_at_s: float | None  # None while it goes


class VirtualTime:
    """Seconds that pass when somebody says so; call it for what `time.monotonic` would say."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        """Virtual seconds so far."""
        return self._now_s

    def advance(self, until_s: float) -> None:
        """Let time pass until then; it never goes back."""
        self._now_s = max(self._now_s, until_s)


class EmulatedClock:
    """Emulated seconds since token 0; stands still while paused (deciding pauses the trace clock).

    `wall` tells the time in which a fleet's timestamps and a controller's deadlines are, in seconds.
    """

    def __init__(self, dilation: float = 1.0, wall: Callable[[], float] = time.monotonic) -> None:
        self.dilation = dilation
        self.wall = wall
        self._zero_s: float | None = None
        self._paused_at_s: float | None = None
        self._paused_total_s = 0.0
        self._followers: list[Callable[[ClockState], None]] = []

    def follow(self, told: Callable[[ClockState], None]) -> None:
        """Call `told` whenever the clock starts, is paused or goes on; at once if it has started."""
        self._followers.append(told)
        self._tell([told])

    def _tell(self, followers: list[Callable[[ClockState], None]]) -> None:
        if self._zero_s is not None:
            state = ClockState(self._zero_s, self._paused_total_s, self._paused_at_s)
            for told in followers:
                told(state)

    def start(self) -> None:
        """Now is emulated time 0."""
        self._zero_s = self.wall()
        self._tell(self._followers)

    def now(self) -> float:
        """Emulated seconds since the start, pauses included; 0 before it."""
        return self.at(self.wall())

    def at(self, wall_s: float) -> float:
        """Emulated seconds at a time of the wall."""
        return 0.0 if self._zero_s is None else (wall_s - self._zero_s) / self.dilation

    def trace_now(self) -> float:
        """Emulated seconds that count for traces: pauses left out."""
        wall = self.wall() if self._paused_at_s is None else self._paused_at_s
        return max(0.0, self.at(wall) - self._paused_total_s / self.dilation)

    def pause(self) -> None:
        """Stop the trace clock."""
        if self._paused_at_s is None:
            self._paused_at_s = self.wall()
            self._tell(self._followers)

    def resume(self) -> None:
        """Let the trace clock go on."""
        if self._paused_at_s is not None:
            self._paused_total_s += self.wall() - self._paused_at_s
            self._paused_at_s = None
            self._tell(self._followers)

    def duration(self, wall_s: float) -> float:
        """Emulated seconds of a wall duration."""
        return wall_s / self.dilation
