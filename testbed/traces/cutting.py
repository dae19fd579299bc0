"""Another trace out of a trace: a part of it, later or earlier, faster or slower links. Pure functions."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

from testbed.errors import ConfigError
from testbed.traces.model import Change, Trace

RATES = ("up", "down")


def clipped(trace: Trace, begin: float, end: float) -> Trace:
    """What the trace says from `begin` to `end`, moved to begin at 0; a period becomes that length, or what is left."""
    last = trace.period if trace.period is not None else max(end, trace.changes[-1].time_s)
    if not 0 <= begin < min(end, last):
        raise ConfigError(f"it cannot be clipped from {begin:g} to {end:g}: it lasts from 0 to {last:g}")
    changes = []
    for (target, quantity), rows in trace.rows.items():
        first = bisect_right(rows, begin, key=lambda row: row[0])
        if first:
            changes.append(Change(0.0, target, quantity, rows[first - 1][1]))
        changes += [Change(time - begin, target, quantity, value) for time, value in rows[first:] if time < end]
    if not changes:
        raise ConfigError(f"it has no row from {begin:g} to {end:g}")
    period = None if trace.period is None else min(end, last) - begin
    return replace(trace, changes=tuple(changes), period=period)


def shifted(trace: Trace, offset: float) -> Trace:
    """The trace later by `offset`; with a negative one it begins that far inside and loses what is before."""
    if offset < 0:
        return clipped(trace, -offset, float("inf"))
    changes = tuple(replace(change, time_s=change.time_s + offset) for change in trace.changes)
    return replace(trace, changes=changes, period=None if trace.period is None else trace.period + offset)


def scaled(trace: Trace, factor: float) -> Trace:
    """The trace with all rates of links multiplied."""
    changes = [
        replace(change, value=change.value * factor) if change.value and change.quantity in RATES else change
        for change in trace.changes
    ]
    return replace(trace, changes=tuple(changes))
