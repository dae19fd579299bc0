"""Figures of a trace: a summary for each of its series."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.traces.model import Trace
from testbed.traces.quantities import quantity_of


@dataclass(frozen=True)
class SeriesSummary:
    """One series of a trace; values in SI units, times in the trace clock's unit."""

    target: str
    quantity: str
    count: int  # rows
    min: float
    mean: float  # weighted by the time for which each value holds
    max: float
    start: float  # the first row's time
    end: float  # the period; with `hold`, the time of the last row or `until`

    def text(self, value: float) -> str:
        """A value of this series with its unit, rounded for reading."""
        return quantity_of(self.target, self.quantity).show(value)


def summarise(trace: Trace, until: float | None = None) -> list[SeriesSummary]:
    """A summary for each series, ordered by target and quantity.

    With `hold`, the last value lasts up to `until` if that is given, else it has no duration. A row at the period of a
    `loop` or `stop` trace, whose value never holds, only adds to `count`.
    """
    last = trace.changes[-1].time_s
    end = trace.period if trace.period is not None else max(last, until or 0.0)
    summaries = []
    for (target, quantity), rows in sorted(trace.rows.items()):
        held = rows if trace.period is None else [row for row in rows if row[0] < end] or rows
        spans = [after - before for (before, _), (after, _) in zip(held, [*held[1:], (end, 0.0)], strict=True)]
        values = [value for _, value in held]
        length = sum(spans)
        mean = sum(v * s for v, s in zip(values, spans, strict=True)) / length if length > 0 else values[-1]
        mean = min(max(mean, min(values)), max(values))  # rounding must not move it outside
        summaries.append(SeriesSummary(target, quantity, len(rows), min(values), mean, max(values), rows[0][0], end))
    return summaries
