"""One step-wise series in time: which value holds when, and when it changes.

A series is a list of (phase, value) steps, which repeats every `period` if it has one. A value of None means that no
value of the series holds. This module knows no targets, units or files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

EndRule = Literal["hold", "loop", "stop"]


@dataclass(frozen=True)
class Series:
    """Steps in strictly increasing order of phase; every phase is below the period, if there is one."""

    steps: tuple[tuple[float, float | None], ...]
    period: float | None = None  # None: the steps happen once
    moments: bool = False  # whether every step counts as a change, also one to the same value

    def value_at(self, time: float) -> float | None:
        """The value that holds at `time`, which is that of the last step at or before it."""
        if time < 0 or not self.steps:
            return None
        if self.period is None:
            index = bisect_right(self.steps, time, key=lambda step: step[0])
            return self.steps[index - 1][1] if index else None
        lap = int(time // self.period)
        # The quotient can be off by one if `time` is a rounded multiple of the period.
        for candidate in (lap + 1, lap, lap - 1):
            if candidate < 0:
                continue
            index = bisect_right(range(len(self.steps)), time, key=lambda i: self._time(candidate, i))
            if index:
                return self.steps[index - 1][1]
        return None

    def changes(self, after: float, until: float) -> Iterator[tuple[float, float | None]]:
        """Yield each (time, value) in after < time <= until at which the value changes, or a moment comes.

        With an infinite `until`, a looping series never ends.
        """
        value = self.value_at(after)
        for time in self._step_times(after):
            if time > until:
                return
            before, value = value, self.value_at(time)
            if self.moments or value != before:
                yield time, value

    def next_change_after(self, time: float) -> float | None:
        """The time of the next change of the value; None if it never changes again."""
        # The next two laps contain every step of a whole lap, so later laps bring nothing new.
        horizon = float("inf") if self.period is None else max(time, 0.0) + 2 * self.period
        return next((moment for moment, _ in self.changes(time, horizon)), None)

    def _time(self, lap: int, index: int) -> float:
        """The time of step `index` in a lap. All methods use this formula, so a reported time finds its own step."""
        phase = self.steps[index][0]
        if self.period is None or lap == 0:
            return phase
        return min(lap * self.period + phase, (lap + 1) * self.period)

    def _step_times(self, after: float) -> Iterator[float]:
        """Yield the distinct step times after `after` in order; a looping series never ends."""
        if not self.steps:
            return
        lap = 0 if self.period is None else max(int(max(after, 0.0) // self.period) - 1, 0)
        first = bisect_right(range(len(self.steps)), after, key=lambda index: self._time(lap, index))
        last = after
        while True:
            for index in range(first, len(self.steps)):
                time = self._time(lap, index)
                if time > last:
                    last = time
                    yield time
            if self.period is None:
                return
            lap, first = lap + 1, 0


def make_series(
    rows: Sequence[tuple[float, float]], end: EndRule, period: float | None, moments: bool = False
) -> Series:
    """The series of rows with strictly increasing times, under an end rule that `traces.model` explains."""
    if end == "hold" or period is None:
        return Series(tuple(rows), None, moments)
    steps: list[tuple[float, float | None]] = [(time, value) for time, value in rows if time < period]
    if end == "stop":
        return Series((*steps, (period, None)), None, moments)
    if steps and steps[0][0] > 0:
        steps.insert(0, (0.0, None))
    if not moments and len({value for _, value in steps}) <= 1:
        return Series(tuple(steps[:1]))  # the value is constant, so the series needs no period
    return Series(tuple(steps), period, moments)
