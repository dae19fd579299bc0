"""Throughput traces as cooked for Pensieve: two columns, `seconds Mbit/s`, no header.

Whitespace separates the columns and the time does not step backwards. A row's rate is in force from its
time to the next row's, as everywhere in this package, and the first row's rate from 0 on. (Pensieve's own
simulator, `sim/fixed_env.py`, uses a row's rate up to its time: the same steps, one sample earlier.) The
trace loops with a period equal to its last row's time, as it does there.
"""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from traces.lines import line_error, numbered_lines, parse_number
from traces.model import Change, Trace
from traces.quantities import recorded_quantities

BITS_PER_MEGABIT = 1e6


def load(path: str | Path, *, target: str, direction: str) -> Trace:
    """A looping link trace from a Pensieve-style file; ConfigError naming file and line."""
    path = Path(path)
    quantities = recorded_quantities(target, direction)
    samples: list[tuple[float, float]] = []
    for number, line in numbered_lines(path):
        cells = line.split()
        if len(cells) != 2:
            raise line_error(path, number, f"the row has {len(cells)} columns: it must have 2, seconds and Mbit/s")
        try:
            time, rate = parse_number(cells[0], "time in seconds"), parse_number(cells[1], "rate in Mbit/s")
        except ConfigError as error:
            raise line_error(path, number, error) from None
        if samples and time < samples[-1][0]:
            raise line_error(path, number, f"the time steps backwards from {samples[-1][0]:g} to {time:g}")
        samples.append((time, rate * BITS_PER_MEGABIT))
    if samples[-1][0] == 0:
        raise line_error(path, len(samples), "the last time is 0: it is the period and must be above 0")
    rows = [(0.0, samples[0][1]), *samples]
    changes = [Change(time, target, quantity, rate) for time, rate in rows for quantity in quantities]
    return Trace(tuple(changes), end="loop", name=path.stem)
