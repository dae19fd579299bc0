"""The latencies of many tokens under conditions that stay: those of `token_latency`, with few half-layers computed.

With all else the same, an attention half's latency is a maximum of functions affine in the sequence length, and nothing
else depends on the length. So over an interval most halves are straight lines, and lengths between two points of such a
line are read off it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

from testbed.placement.cost.model import cost_model
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan

_STRAIGHT = 1e-12  # relative deviation of the middle from the line between the ends
_SHORT = 4  # lengths: among fewer a line is not looked for, because that computes as many


class Forecast:
    """Latencies under one observation and plan; those of lengths beyond `last` are computed one by one."""

    def __init__(self, observation: Observation, plan: Plan, last: int) -> None:
        model, layers = cost_model(observation), range(len(plan.layers))
        self._attention = [_Lines(partial(model.attention_seconds, plan, layer), last) for layer in layers]
        self._rest_s = sum(model.ffn_seconds(plan, layer) for layer in layers) + model.around_seconds(plan)

    def seconds(self, length: int) -> float:
        """Latency of the token that sees `length` positions."""
        return sum(half.seconds(length) for half in self._attention) + self._rest_s


def forecast_of(observation: Observation, plan: Plan, last: int) -> Forecast:
    """A forecast that is shared, as far as only the tokens done differ: a simulated fleet needs its controller's."""
    return _shared(replace(observation, prompt_tokens=0, tokens_done=0, tokens_max=1, interval=1), plan, last)


_shared = lru_cache(maxsize=4)(Forecast)


class _Lines:
    """A function of the length that is computed at few lengths."""

    def __init__(self, compute: Callable[[int], float], last: int) -> None:
        self._function, self._last = compute, last
        self._computed: dict[int, float] = {}
        self._lines: list[tuple[int, int]] = []

    def seconds(self, length: int) -> float:
        """The function's value, computed or read off a line."""
        found = self._computed.get(length)
        if found is not None:
            return found
        line = self._line(length)
        # The first length asked for may be the only one: conditions can change with every token.
        if line is None and self._computed and length + _SHORT <= self._last:
            self._look_for_lines(length, self._last)
            line = self._line(length)
        return self._compute(length) if line is None else self._between(*line, length)

    def _compute(self, length: int) -> float:
        if length not in self._computed:
            self._computed[length] = self._function(length)
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
