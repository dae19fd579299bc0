"""Throughput traces as cooked for Pensieve: two columns, `seconds Mbit/s`, no header.

Whitespace separates the columns and the time does not step backwards. A row's rate is in force *up to* its time, from
the time of the row before: Pensieve's simulator, `sim/fixed_env.py`, begins between the first two rows and returns
there after the last, so the first row only says when the trace begins. Time 0 is the first row, whatever clock the
file was written by, and the trace loops with a period of last minus first time.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from testbed.errors import ConfigError
from testbed.traces.lines import file_error, line_error, numbered_lines, parse_number
from testbed.traces.model import Change, Trace
from testbed.traces.quantities import recorded_quantities

BITS_PER_MEGABIT = 1e6


def load(path: str | Path, *, target: str, direction: str) -> Trace:
    """A looping link trace from a Pensieve-style file; ConfigError naming file and line."""
    path = Path(path)
    quantities = recorded_quantities(target, direction)
    samples = _samples(path)
    begin, end = samples[0][0], samples[-1][0]
    if begin == end:
        raise file_error(path, "all rows have the same time: a row's rate is in force from the time of the row before")
    changes = [
        Change(before - begin, target, quantity, rate)
        for (before, _), (time, rate) in pairwise(samples)
        if time > before
        for quantity in quantities
    ]
    return Trace(tuple(changes), end="loop", period=end - begin, name=path.stem)


def _samples(path: Path) -> list[tuple[float, float]]:
    """(seconds, bit/s) rows as in the file."""
    samples: list[tuple[float, float]] = []
    before = 0.0
    for number, line in numbered_lines(path):
        cells = line.split()
        if len(cells) != 2:
            raise line_error(path, number, f"the row has {len(cells)} columns: it must have 2, seconds and Mbit/s")
        try:
            time, rate = parse_number(cells[0], "time in seconds"), parse_number(cells[1], "rate in Mbit/s")
        except ConfigError as error:
            raise line_error(path, number, error) from None
        if time < before:
            raise line_error(path, number, f"the time steps backwards from {before:g} to {time:g}")
        before = time
        samples.append((time, rate * BITS_PER_MEGABIT))
    return samples
