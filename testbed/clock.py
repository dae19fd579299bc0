"""One clock through which all times, rates and delays of a run pass.

With `dilation` k the emulation is k times slower than life: an emulated second takes k wall seconds, a
link of r bit/s is shaped to r/k, and every report is in emulated time.
"""

from __future__ import annotations

import time


class EmulatedClock:
    """Emulated seconds since token 0; stands still while paused (deciding pauses the trace clock)."""

    def __init__(self, dilation: float = 1.0) -> None:
        self.dilation = dilation
        self._zero_s: float | None = None
        self._paused_at_s: float | None = None
        self._paused_total_s = 0.0

    def start(self) -> None:
        """Now is emulated time 0."""
        self._zero_s = time.monotonic()

    def now(self) -> float:
        """Emulated seconds since the start, pauses included; 0 before it."""
        return self.at(time.monotonic())

    def at(self, wall_s: float) -> float:
        """Emulated seconds at a monotonic wall time."""
        return 0.0 if self._zero_s is None else (wall_s - self._zero_s) / self.dilation

    def trace_now(self) -> float:
        """Emulated seconds that count for traces: pauses left out."""
        wall = time.monotonic() if self._paused_at_s is None else self._paused_at_s
        return max(0.0, self.at(wall) - self._paused_total_s / self.dilation)

    def pause(self) -> None:
        """Stop the trace clock."""
        if self._paused_at_s is None:
            self._paused_at_s = time.monotonic()

    def resume(self) -> None:
        """Let the trace clock go on."""
        if self._paused_at_s is not None:
            self._paused_total_s += time.monotonic() - self._paused_at_s
            self._paused_at_s = None

    def duration(self, wall_s: float) -> float:
        """Emulated seconds of a wall duration."""
        return wall_s / self.dilation
