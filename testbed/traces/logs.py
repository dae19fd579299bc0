"""Logs of measured rates as CSV files with a header: files with known headers, and any file whose columns are named.

The rate of a row holds from its time on, and a row without a measurement changes nothing. Time 0 is the first row that
is read, whatever clock the log uses, and the trace loops with a period of last minus first time. Of several rows with
the same time, the last one counts. A time that steps backwards is an error, because another run begins there: the
option `group` selects one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import shown
from testbed.traces.columns import (
    RATE_UNITS,
    Numbers,
    Times,
    is_missing,
    rate_factor,
    rate_factor_of,
    time_factor,
    time_factor_of,
)
from testbed.traces.lines import file_error, line_error, option_number, shortened
from testbed.traces.quantities import recorded_quantities
from testbed.traces.recording import Change, Recording
from testbed.traces.tables import Table, read, same_names

_LONGEST_OPTION = 200  # characters


@dataclass(frozen=True)
class Layout:
    """A known header: the columns that identify it, their meaning, and the columns that tell one run from another."""

    columns: tuple[str, ...]
    means: Mapping[str, Any]
    runs: tuple[str, ...] = ()
    sort: bool = False  # rows that are out of order are sorted, not refused


LAYOUTS: Mapping[str, Layout] = {
    # G-NetTrack, as in the Irish 4G and 5G data sets (Raca et al., MMSys 2018 and 2020): the achieved kbit/s, a lower
    # bound of the link's capacity. 0 may mean that nobody sent. Seconds are missing or even step back.
    "irish5g": Layout(
        ("Timestamp", "DL_bitrate", "UL_bitrate"),
        {"time": "Timestamp", "down": "DL_bitrate", "up": "UL_bitrate", "rate_unit": "kbit/s"},
        sort=True,
    ),
    # Narayanan et al., IMC 2020: the downlink throughput of each second, measured by iPerf.
    "lumos5g": Layout(
        ("run_num", "seq_num", "Throughput"),
        {"time": "seq_num", "time_unit": "s", "down": "Throughput", "rate_unit": "Mbit/s"},
        ("run_num", "mobility_mode", "trajectory_direction"),
    ),
    # Narayanan et al., WWW 2020. Its driving traces have a column for each operator; the user names one with `down`.
    "5gophers": Layout(
        ("seq_num", "throughput_mbps"), {"time": "seq_num", "time_unit": "s", "down": "throughput_mbps"}, ("run_num",)
    ),
    # The status of a Starlink terminal, as the common tools log it.
    "starlink": Layout(
        ("timestamp", "downlink_throughput_bps", "uplink_throughput_bps"),
        {"time": "timestamp", "down": "downlink_throughput_bps", "up": "uplink_throughput_bps"},
    ),
    # FCC, Measuring Broadband America, httpgetmt: bytes per second; a row stands for 5 s.
    "fcc": Layout(
        ("unit_id", "dtime", "target", "bytes_sec"),
        {"step": 5.0, "down": "bytes_sec", "rate_unit": "B/s"},
        ("unit_id", "target"),
    ),
}


def layout_of(header: tuple[str, ...]) -> str | None:
    """The name of the known layout that a header has, if any."""
    return next((name for name, layout in LAYOUTS.items() if same_names(header, layout.columns)), None)


def load(
    path: str | Path,
    *,
    target: str,
    direction: str | None = None,
    layout: str | None = None,
    time: str | None = None,
    step: float | None = None,
    down: str | None = None,
    up: str | None = None,
    time_unit: str | None = None,
    time_format: str | None = None,
    rate_unit: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    missing: str | Sequence[str] = (),
    group: str | Sequence[str] | Mapping[str, Any] = (),
) -> Recording:
    """A looping link trace from the columns of a log; raises ConfigError naming file and line.

    `down` and `up` name the columns of the rates, and `time` names the column of the times; in its place, `step` gives
    the seconds for which a row stands. With `direction: both`, one column drives both directions. `time_unit` and
    `rate_unit` give the units unless the names of the columns contain them; times without a unit are seconds or Unix
    times. `missing` lists cells that are no measurement. `group` selects rows by a column's value, like `run_num=3`.
    """
    path = Path(path)
    known = LAYOUTS[layout] if layout is not None else Layout((), {})
    own = {"time": time, "step": step, "down": down, "up": up, "time_unit": time_unit, "rate_unit": rate_unit}
    if time is not None or step is not None:  # the user's key replaces the one of the layout
        known = replace(known, means={key: value for key, value in known.means.items() if key not in ("time", "step")})
    means = dict(known.means) | {key: value for key, value in own.items() if value is not None}
    for key, value in (means | {"time_format": time_format, "decimal": decimal}).items():
        if value is not None and key != "step" and not (isinstance(value, str) and 0 < len(value) <= _LONGEST_OPTION):
            raise file_error(path, f"{key} is {shown(value)}, but it must be a short text")
    if decimal not in (None, ".", ","):
        raise file_error(path, f"the decimal sign {shown(decimal)} is neither '.' nor ','")
    table = read(path, delimiter)
    try:
        rates = _rate_columns(table, target, direction, means)
        taken = _taken_groups(table, group)
        runs = [table.column(name) for name in known.runs if same_names(table.header, [name])]
        clock = _clock(table, means, time_format, Numbers(decimal))
        return _Log(table, clock, rates, taken, runs, known.sort, _texts(missing)).recording(target)
    except ConfigError as error:
        raise file_error(path, error) from None


def _rate_columns(
    table: Table, target: str, direction: str | None, means: Mapping[str, Any]
) -> dict[str, tuple[int, float]]:
    """The column of each quantity that the trace drives, and the bit/s in its unit."""
    names = {quantity: means[quantity] for quantity in ("up", "down") if quantity in means}
    if not names:
        raise ConfigError(f"name the columns of its rates by down and up: the header has {table.names()}")
    both = recorded_quantities(target, "both")  # this checks the target, whatever the direction
    quantities = [q for q in both if q in names] if direction is None else recorded_quantities(target, direction)
    columns = {}
    for quantity in quantities:
        name = names.get(quantity, next(iter(names.values())))
        place = table.column(name)
        unit = means.get("rate_unit")
        factor = rate_factor(unit) if unit is not None else rate_factor_of(table.header[place])
        if factor is None:
            unclear = f"the unit of column {shown(name)} is not clear from its name"
            raise ConfigError(f"{unclear}: give rate_unit ({RATE_UNITS})")
        columns[quantity] = (place, factor)
    return columns


def _clock(table: Table, means: Mapping[str, Any], form: str | None, numbers: Numbers) -> _Clock:
    """The clock that gives the time of a row."""
    if ("time" in means) == ("step" in means):
        raise ConfigError(f"name the column of its times by time, or seconds a row by step: it has {table.names()}")
    if "step" in means:
        return _Clock(None, Times(numbers), option_number(means["step"], "the seconds of a row (step)", least=1e-3))
    place = table.column(means["time"])
    unit = means.get("time_unit")
    factor = time_factor(unit) if unit is not None else time_factor_of(table.header[place])
    return _Clock(place, Times(numbers, factor, form), 0.0)


def _taken_groups(table: Table, group: object) -> dict[int, str]:
    """The index of each column that selects rows -> the value that it must have."""
    pairs = [*group.items()] if isinstance(group, Mapping) else [text.partition("=")[::2] for text in _texts(group)]
    taken = {}
    for name, value in pairs:
        if not name or not isinstance(name, str) or value in ("", [], ()):
            raise ConfigError(f"the group {shown(name)} is not one: write COLUMN=VALUE, like run_num=3")
        taken[table.column(name)] = _texts(value)[0]
    return taken


def _texts(given: object) -> list[str]:
    """The texts in an option that is one text or a list of texts."""
    texts = given if isinstance(given, list | tuple) else [given]
    if not all(isinstance(one, str) or (isinstance(one, int | float) and abs(one) < 1e15) for one in texts):
        raise ConfigError(f"{shown(given)} is neither a text nor a list of texts")
    return [str(one)[:_LONGEST_OPTION] for one in texts]


@dataclass(frozen=True)
class _Clock:
    """The time of each row, from a column or from a fixed step."""

    column: int | None
    times: Times
    step: float


@dataclass(frozen=True)
class _Log:
    """A table, and what to read from it."""

    table: Table
    clock: _Clock
    rates: Mapping[str, tuple[int, float]]  # quantity -> column, bit/s in its unit
    taken: Mapping[int, str]  # column -> the value that selects rows
    runs: Sequence[int]  # columns that must not change among the selected rows
    sort: bool
    missing: Sequence[str]

    def recording(self, target: str) -> Recording:
        """The trace of the selected rows."""
        path = self.table.path
        samples: list[tuple[float, dict[str, float]]] = []
        for line, cells in self._rows():
            try:
                samples.append(self._sample(cells, len(samples)))
            except ConfigError as error:
                raise line_error(path, line, error) from None
            if len(samples) > 1 and samples[-1][0] < samples[-2][0] and not self.sort:
                back = f"the time steps backwards by {samples[-2][0] - samples[-1][0]:g} s"
                raise line_error(path, line, f"{back}: take one run by group, or sort the rows by time")
        if not samples:
            what = "takes none of its rows" if self.taken else "has no rows"
            raise file_error(path, f"the log {what}: there must be at least one")
        samples.sort(key=lambda sample: sample[0])  # stable
        begin = samples[0][0]
        period = samples[-1][0] - begin + self.clock.step
        changes = [
            Change(time - begin, target, quantity, rate) for time, rates in samples for quantity, rate in rates.items()
        ]
        for quantity, (column, _) in self.rates.items():
            if all(change.quantity != quantity for change in changes):
                raise file_error(path, f"the log has no value in its column {shortened(self.table.header[column])}")
        if period <= 0:
            raise file_error(path, "all its rows have the same time: a looping trace needs a period above 0")
        return Recording(tuple(changes), end="loop", period=period, name=path.stem)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the selected rows; raises ConfigError if they belong to several runs."""
        run: list[str] | None = None
        for line, cells in self.table.rows():
            if not all(_same(cells[column], value) for column, value in self.taken.items()):
                continue
            own = [cells[column] for column in self.runs]
            if run is not None and own != run:
                name, before = next(
                    (self.table.header[c], old) for c, old, new in zip(self.runs, run, own, strict=True) if old != new
                )
                one = f"{shortened(name)}={shortened(before)}"
                raise line_error(self.table.path, line, f"another run begins here: take one by group, like {one}")
            run = own
            yield line, cells

    def _sample(self, cells: list[str], number: int) -> tuple[float, dict[str, float]]:
        """The time of a row in seconds on the clock of the log, and its bit/s by quantity."""
        column, numbers = self.clock.column, self.clock.times.numbers
        time = number * self.clock.step if column is None else self.clock.times.read(cells[column])
        rates = {}
        for quantity, (place, factor) in self.rates.items():
            text = cells[place]
            if is_missing(text) or text in self.missing:
                continue
            name = shortened(self.table.header[place], 40)
            try:
                rate = numbers.read(text) * factor
            except ConfigError as error:
                raise ConfigError(f"column {name}: {error}") from None
            if rate < 0:
                raise ConfigError(f"column {name}: {shown(text)} is no rate; if it is no sample, list it under missing")
            rates[quantity] = rate + 0.0
        return time, rates


def _same(cell: str, value: str) -> bool:
    """Whether a cell holds this value, as text or as a number."""
    if cell == value:
        return True
    try:
        return float(cell) == float(value)
    except ValueError:
        return False
