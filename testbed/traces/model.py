"""The trace model: step-wise series for links and devices, and the rules they follow.

Times are in the unit of the experiment's trace clock: emulated seconds since token 0, or tokens.
Values are SI numbers (`traces.quantities`). This module must not know file formats, topologies or runs.

The rules
- **Step.** A row's value is in force from its time on. Before a series' first row nothing is in force:
  the topology's value holds.
- **Gap.** Between two rows the earlier value holds, however long the gap.
- **Duplicate.** Of rows with the same time, target and quantity the last one wins.
- **Zero.** A rate of 0 is an outage; memory, delay and loss may be 0; compute and streaming may not.
- **End.** `hold`: the last value stays. `loop`: the trace covers [0, period) and every lap is exactly
  like the first one, so at k * period the values return to the first ones (and to the topology's where a
  series starts later than 0). `stop`: from `period` on nothing is in force. The period defaults to the
  last row's time; that row then marks the end and is itself never in force.
- Rows that repeat the value in force, within a lap or from one lap to the next, are no changes.
- Two traces of one set may not drive the same quantity of the same target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.traces.quantities import checked
from testbed.traces.series import EndRule, Series, make_series

SeriesKey = tuple[str, str]  # (target, quantity)

MOST_CHANGES = 1_000_000
"""Rows of one trace: some hundred bytes each, here and in every run's manifest."""

MOST_STEPS = 2000
"""Steps of a loop per second or token; an emulated link takes about a thousand changes a second."""

_KEYS = ("name", "end", "period", "changes")


@dataclass(frozen=True)
class Change:
    """From `time_s` on, `quantity` of `target` has this SI value."""

    time_s: float  # in the trace clock's unit: seconds, or tokens
    target: str  # link/DEVICE or device/DEVICE
    quantity: str
    value: float | None  # None: nothing in force any more, back to the topology's own value


@dataclass(frozen=True)
class Trace:
    """One or more series that were recorded or made together and end by the same rule.

    Rows are put in order of time and duplicates dropped, the last one kept. Raises ConfigError for a row
    or a period that breaks the rules above.
    """

    changes: tuple[Change, ...]
    end: EndRule = "hold"
    period: float | None = None  # None only with `hold`
    name: str = field(default="trace", compare=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "changes", _canonical(self.changes))
            object.__setattr__(self, "period", _checked_period(self.changes[-1].time_s, self.end, self.period))
            if self.end == "loop" and self.period is not None and len(self.changes) > MOST_STEPS * self.period:
                _refuse_frantic_loops(self.series.values())
        except ConfigError as error:
            raise ConfigError(f"trace {shown(self.name)}: {error}") from None

    @classmethod
    def load(cls, path: str | Path, format: str | None = None, **options: Any) -> Trace:
        """Read a trace file; the format is guessed from the file where it is not given.

        Options for all formats: `end`, `period`; for recorded link traces also `target` (link/DEVICE) and
        `direction` (up, down or both); for mahimahi `bin_s`. Raises ConfigError naming file and line.
        """
        from testbed.traces import formats

        return formats.load(path, format, **options)

    @property
    def series(self) -> dict[SeriesKey, Series]:
        """The trace's series under its end rule, by (target, quantity)."""
        return {key: make_series(rows, self.end, self.period) for key, rows in self.rows.items()}

    @property
    def rows(self) -> dict[SeriesKey, list[tuple[float, float]]]:
        """(time, value) rows as given, by (target, quantity)."""
        rows: dict[SeriesKey, list[tuple[float, float]]] = {}
        for change in self.changes:
            assert change.value is not None
            rows.setdefault((change.target, change.quantity), []).append((change.time_s, change.value))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything there is to it, ready for JSON."""
        changes = [[c.time_s, c.target, c.quantity, c.value] for c in self.changes]
        return {"name": self.name, "end": self.end, "period": self.period, "changes": changes}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trace:
        """The inverse of `to_dict`; ConfigError for anything else."""
        if not isinstance(data, Mapping) or set(data) != set(_KEYS):
            raise ConfigError(f"a trace is a mapping with the keys {', '.join(_KEYS)}, not {shown(data)}")
        try:
            changes = tuple(Change(float(t), str(target), str(q), float(v)) for t, target, q, v in data["changes"])
            period = None if data["period"] is None else float(data["period"])
        except (TypeError, ValueError, OverflowError):
            rows = "changes must be rows of [time, target, quantity, value] and period a number or null"
            raise ConfigError(f"trace {shown(data['name'])}: {rows}") from None
        return cls(changes, end=data["end"], period=period, name=str(data["name"]))


@dataclass(frozen=True)
class TraceSet:
    """All traces of an experiment as one: what is in force when, and what changes next."""

    traces: tuple[Trace, ...] = ()
    _series: dict[SeriesKey, Series] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "traces", tuple(self.traces))
        series: dict[SeriesKey, Series] = {}
        owners: dict[SeriesKey, str] = {}
        for trace in self.traces:
            for key, one in trace.series.items():
                if key in series:
                    both = f"traces {owners[key]} and {trace.name} both drive {key[1]} of {key[0]}"
                    raise ConfigError(f"{both}: only one of them may")
                series[key], owners[key] = one, trace.name
        object.__setattr__(self, "_series", dict(sorted(series.items())))

    def at(self, time: float) -> dict[SeriesKey, float]:
        """The values in force at `time`, by (target, quantity); what no trace drives then is absent."""
        values = {key: series.value_at(time) for key, series in self._series.items()}
        return {key: value for key, value in values.items() if value is not None}

    def changes_between(self, after: float, until: float) -> list[Change]:
        """All changes in after < time <= until, by time, then target and quantity; `until` finite for loops.

        Applied in order to `at(after)` they give `at(until)`; a change to None takes its quantity out.
        """
        found = [
            Change(time, target, quantity, value)
            for (target, quantity), series in self._series.items()
            for time, value in series.changes(after, until)
        ]
        return sorted(found, key=lambda change: (change.time_s, change.target, change.quantity))

    def next_change_after(self, time: float) -> float | None:
        """When something next changes after `time`; None if nothing ever does."""
        times = (series.next_change_after(time) for series in self._series.values())
        return min((moment for moment in times if moment is not None), default=None)

    def targets(self) -> tuple[str, ...]:
        """The links and devices that are driven, sorted."""
        return tuple(sorted({target for target, _ in self._series}))

    def to_dict(self) -> list[dict[str, Any]]:
        """One mapping per trace, ready for JSON."""
        return [trace.to_dict() for trace in self.traces]

    @classmethod
    def from_dict(cls, data: Iterable[Mapping[str, Any]]) -> TraceSet:
        """The inverse of `to_dict`."""
        return cls(tuple(Trace.from_dict(one) for one in data))


def _refuse_frantic_loops(series: Iterable[Series]) -> None:
    """Raise for a loop that is so short that nothing could replay it; one that never changes has no period."""
    for one in series:
        if one.period is not None and len(one.steps) > MOST_STEPS * one.period * (1 + 1e-9):
            raise ConfigError(
                f"its loop of {one.period:g} has {len(one.steps)} steps, which is over {MOST_STEPS} a second or token: "
                "nothing can replay that, so give a longer period or end: hold"
            )


def _canonical(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Rows checked, in order of (time, target, quantity), the last of duplicates kept."""
    changes = tuple(changes)
    if len(changes) > MOST_CHANGES:
        raise ConfigError(f"it has {len(changes)} rows, and at most {MOST_CHANGES} are held: cut it into parts")
    latest: dict[tuple[float, str, str], Change] = {}
    for change in changes:
        if not 0 <= change.time_s < math.inf:
            raise ConfigError(f"{shown(change.time_s)} is not a time: it must be finite and not negative")
        if change.value is None:
            raise ConfigError(f"{change.quantity} of {change.target} at {change.time_s:g} has no value")
        value = checked(change.target, change.quantity, change.value)
        latest[change.time_s, change.target, change.quantity] = (
            change
            if type(change.time_s) is type(change.value) is float and value == change.value
            else Change(float(change.time_s), change.target, change.quantity, value)
        )
    if not latest:
        raise ConfigError("it has no rows: it must have at least one")
    return tuple(latest[key] for key in sorted(latest))  # quick where they are in order already


def _checked_period(last: float, end: EndRule, period: float | None) -> float | None:
    """The period that the end rule works with; None for `hold`."""
    if end not in get_args(EndRule):
        raise ConfigError(f"{shown(end)} is not an end rule: write {', '.join(get_args(EndRule))}")
    if end == "hold":
        if period is not None:
            raise ConfigError(f"a period of {period:g} means nothing with end: hold: write end: loop or end: stop")
        return None
    if period is None and last == 0:
        raise ConfigError(f"end: {end} needs a period, because the last row is at time 0")
    period = last if period is None else period
    if not math.isfinite(period) or period <= 0 or period < last:
        raise ConfigError(
            f"a period of {period:g} is not possible: it must be finite, above 0 and not before the last row, {last:g}"
        )
    return float(period)
