"""The latencies of many tokens under conditions that stay: those of `token_latency`, with few of them computed.

With all else the same, a token's latency is a maximum of functions affine in the sequence length. So over an interval
it is mostly one straight line, and lengths between two points of such a line are read off it.
"""

from __future__ import annotations

from testbed.placement.cost.model import token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan

_STRAIGHT = 1e-12  # relative deviation of the middle from the line between the ends
_SHORT = 4  # lengths: among fewer a line is not looked for, because that computes as many


class Forecast:
    """Latencies under one observation and plan; those of lengths beyond `last` are computed one by one."""

    def __init__(self, observation: Observation, plan: Plan, last: int) -> None:
        self._observation, self._plan, self._last = observation, plan, last
        self._computed: dict[int, float] = {}
        self._lines: list[tuple[int, int]] = []

    def seconds(self, length: int) -> float:
        """Latency of the token that sees `length` positions."""
        if length in self._computed:
            return self._computed[length]
        line = self._line(length)
        # The first length asked for may be the only one: conditions can change with every token.
        if line is None and self._computed and length + _SHORT <= self._last:
            self._look_for_lines(length, self._last)
            line = self._line(length)
        return self._compute(length) if line is None else self._between(*line, length)

    def _compute(self, length: int) -> float:
        if length not in self._computed:
            self._computed[length] = token_latency(self._observation, self._plan, length)
        return self._computed[length]

    def _line(self, length: int) -> tuple[int, int] | None:
        return next((line for line in self._lines if line[0] < length < line[1]), None)

    def _look_for_lines(self, low: int, high: int) -> None:
        """Bisect the lengths until each part is straight or short."""
        if high - low < _SHORT:
            return
        middle = (low + high) // 2
        found = self._compute(middle)
        if abs(self._between(low, high, middle) - found) <= _STRAIGHT * found:
            self._lines.append((low, high))
        else:
            self._look_for_lines(low, middle)
            self._look_for_lines(middle, high)

    def _between(self, low: int, high: int, length: int) -> float:
        share = (length - low) / (high - low)
        return (1 - share) * self._compute(low) + share * self._compute(high)
