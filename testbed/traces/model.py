"""The trace model: step-wise series for links and devices, and the rules they follow.

Times are in the unit of the experiment's trace clock: emulated seconds since token 0, or tokens. Values are SI numbers
(`traces.quantities`). This module knows neither topologies nor runs.

The rules
- **Step.** A row's value holds from its time on. Before the first row of a series, the topology's value holds.
- **Gap.** Between two rows the earlier value holds, however long the gap is.
- **Duplicate.** Of several rows with the same time, target and quantity, the last one counts.
- **Zero.** A rate of 0 is an outage. Memory, delay and loss may be 0; compute and streaming may not.
- **End.** `hold`: the last value stays. `loop`: the trace covers [0, period) and repeats. Every lap is exactly like the
  first, so at k * period the first values hold again, or the topology's value if a series starts later than 0.
  `stop`: from `period` on, the topology's values hold. The period is by default the time of the last row; that row
  then only marks the end, and its value never holds.
- A row that repeats the current value, within a lap or from one lap to the next, is no change.
- Two traces of one set must not drive the same quantity of the same target.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.traces.lines import file_error, option_number
from testbed.traces.quantities import RATES, STRIKES, checked
from testbed.traces.recording import MOST_CHANGES, Change, Recording
from testbed.traces.series import EndRule, Series, make_series

SeriesKey = tuple[str, str]  # (target, quantity)

MOST_STEPS = 2000
"""The most steps of a loop per second or token; an emulated link can take about a thousand changes a second."""

_KEYS = ("name", "end", "period", "changes")


@dataclass(frozen=True)
class Trace(Recording):
    """One or more series that were recorded or generated together and that end by the same rule.

    The rows are put in order of time, and only the last of several duplicates is kept. Raises ConfigError for a row or
    a period that breaks the rules above.
    """

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "changes", _canonical(self.changes))
            object.__setattr__(self, "period", _checked_period(self.changes[-1].time_s, self.end, self.period))
            if self.end == "loop" and self.period is not None and len(self.changes) > MOST_STEPS * self.period:
                _refuse_frantic_loops(self.series.values())
        except ConfigError as error:
            raise ConfigError(f"trace {shown(self.name)}: {error}") from None

    @classmethod
    def load(
        cls,
        path: str | Path,
        format: str | None = None,
        *,
        end: str | None = None,
        period: float | None = None,
        offset: float | None = None,
        clip: str | Sequence[float] | None = None,
        scale: float | None = None,
        **options: Any,
    ) -> Trace:
        """Read a trace file, whose format is guessed if it is not given; raises ConfigError naming file and line.

        `scale` multiplies a link's rates, `clip` takes the part between two times, and `offset` moves the trace in
        time, in this order. `end` and `period` replace those of the file. Each format has further options: recorded
        link traces take `target` (link/DEVICE) and `direction` (up, down or both).
        """
        try:
            from testbed.traces import formats

            recording = formats.read(path, format, **options)
            trace = cls(recording.changes, recording.end, recording.period, recording.name)
            if scale is not None:
                trace = trace.scaled(option_number(scale, "a factor (scale)", least=1e-9))
            if clip is not None:
                trace = trace.clipped(*_clip_ends(clip))
            if offset is not None:
                trace = trace.shifted(option_number(offset, "a number of seconds (offset)"))
            return trace._ending(end, period)
        except ConfigError as error:
            raise file_error(path, error) from None

    @property
    def series(self) -> dict[SeriesKey, Series]:
        """The series of this trace under its end rule, by (target, quantity)."""
        return {key: make_series(rows, self.end, self.period, key[1] in STRIKES) for key, rows in self.rows.items()}

    @property
    def rows(self) -> dict[SeriesKey, list[tuple[float, float]]]:
        """The (time, value) rows as given, by (target, quantity)."""
        rows: dict[SeriesKey, list[tuple[float, float]]] = {}
        for change in self.changes:
            assert change.value is not None
            rows.setdefault((change.target, change.quantity), []).append((change.time_s, change.value))
        return rows

    def clipped(self, begin: float, end: float) -> Trace:
        """The part from `begin` to `end`, moved to start at 0; a period becomes the length of that part."""
        last = self.period if self.period is not None else max(end, self.changes[-1].time_s)
        if not 0 <= begin < min(end, last):
            raise ConfigError(f"it cannot be clipped from {begin:g} to {end:g}: it lasts from 0 to {last:g}")
        changes = []
        for (target, quantity), rows in self.rows.items():
            first = bisect_right(rows, begin, key=lambda row: row[0])
            if first:
                changes.append(Change(0.0, target, quantity, rows[first - 1][1]))
            changes += [Change(time - begin, target, quantity, value) for time, value in rows[first:] if time < end]
        if not changes:
            raise ConfigError(f"it has no row from {begin:g} to {end:g}")
        period = None if self.period is None else min(end, last) - begin
        return replace(self, changes=tuple(changes), period=period)

    def shifted(self, offset: float) -> Trace:
        """The trace later by `offset`; a negative offset drops what lies before it and moves the rest to 0."""
        if offset < 0:
            return self.clipped(-offset, math.inf)
        changes = tuple(replace(change, time_s=change.time_s + offset) for change in self.changes)
        return replace(self, changes=changes, period=None if self.period is None else self.period + offset)

    def scaled(self, factor: float) -> Trace:
        """The trace with all rates of links multiplied by `factor`."""
        changes = [
            replace(change, value=change.value * factor) if change.value and change.quantity in RATES else change
            for change in self.changes
        ]
        return replace(self, changes=tuple(changes))

    def _ending(self, end: str | None, period: float | None) -> Trace:
        """The trace with another end rule or period; None keeps its own."""
        if end is None and period is None:
            return self
        if period is not None:
            period = option_number(period, "a period", most=1e15)
        rule: Any = self.end if end is None else end
        if period is None and rule != "hold":
            period = self.period
        return replace(self, end=rule, period=period)

    def to_dict(self) -> dict[str, Any]:
        """The whole trace, ready for JSON."""
        changes = [[c.time_s, c.target, c.quantity, c.value] for c in self.changes]
        return {"name": self.name, "end": self.end, "period": self.period, "changes": changes}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trace:
        """The trace that `to_dict` wrote; raises ConfigError for anything else."""
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
    """All traces of an experiment together: which values hold at a time, and what changes next."""

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
        """The values that hold at `time`, by (target, quantity); quantities that no trace drives then are absent."""
        values = {key: series.value_at(time) for key, series in self._series.items()}
        return {key: value for key, value in values.items() if value is not None}

    def changes_between(self, after: float, until: float) -> list[Change]:
        """All changes in after < time <= until, ordered by time, target and quantity.

        Applied in order to `at(after)` they give `at(until)`; a change to None removes its quantity. `until` must be
        finite if a trace loops.
        """
        found = [
            Change(time, target, quantity, value)
            for (target, quantity), series in self._series.items()
            for time, value in series.changes(after, until)
        ]
        return sorted(found, key=lambda change: (change.time_s, change.target, change.quantity))

    def next_change_after(self, time: float) -> float | None:
        """The time of the next change after `time`; None if there is none."""
        times = (series.next_change_after(time) for series in self._series.values())
        return min((moment for moment in times if moment is not None), default=None)

    def changes_again(self, key: SeriesKey, time: float) -> bool:
        """Whether the value of one quantity changes after `time`."""
        return key in self._series and self._series[key].next_change_after(time) is not None

    def targets(self) -> tuple[str, ...]:
        """The links and devices that the traces drive, sorted."""
        return tuple(sorted({target for target, _ in self._series}))

    def to_dict(self) -> list[dict[str, Any]]:
        """A mapping for each trace, ready for JSON."""
        return [trace.to_dict() for trace in self.traces]

    @classmethod
    def from_dict(cls, data: Iterable[Mapping[str, Any]]) -> TraceSet:
        """The traces that `to_dict` wrote; raises ConfigError for anything else."""
        return cls(tuple(Trace.from_dict(one) for one in data))


def _clip_ends(clip: object) -> tuple[float, float]:
    """The two ends of a clip, which may be written as `10,60`."""
    ends = clip.split(",") if isinstance(clip, str) else clip
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise ConfigError(f"{shown(clip)} is no part of a trace (clip): write its two ends, like 10,60")
    try:
        values = [float(one) if isinstance(one, str) else one for one in ends]
    except ValueError:
        raise ConfigError(f"{shown(clip)} is no part of a trace (clip): its ends must be numbers") from None
    begin, end = (option_number(value, "an end of a part (clip)", least=0.0) for value in values)
    return begin, end


def _refuse_frantic_loops(series: Iterable[Series]) -> None:
    """Raise ConfigError for a loop that is too fast to replay; a loop that never changes has no period."""
    for one in series:
        if one.period is not None and len(one.steps) > MOST_STEPS * one.period * (1 + 1e-9):
            raise ConfigError(
                f"its loop of {one.period:g} has {len(one.steps)} steps, which is over {MOST_STEPS} a second or token: "
                "nothing can replay that, so give a longer period or end: hold"
            )


def _canonical(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The checked rows in order of (time, target, quantity); of duplicates the last is kept."""
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
    return tuple(latest[key] for key in sorted(latest))  # sorting is quick if they are in order already


def _checked_period(last: float, end: EndRule, period: float | None) -> float | None:
    """The period under this end rule; None for `hold`. Raises ConfigError."""
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
