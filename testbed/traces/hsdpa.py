"""Raw logs of bytes received while commuting: Norway's HSDPA (Riiser et al., MMSys 2013) and Ghent's 4G (2016).

Six columns, no header: Unix time (Norway in seconds, Ghent in milliseconds), a monotonic clock in milliseconds,
latitude, longitude, bytes since the row before, milliseconds since the row before. A row's bytes came in the
milliseconds *before* its time, so its rate is in force up to it. The trace begins with the first row's milliseconds and
loops at the last row, and its mean rate is that of all bytes. Where the clock has moved on by more than a row's
milliseconds, nothing was measured and the rate before holds.
"""

from __future__ import annotations

from pathlib import Path

from testbed.errors import ConfigError
from testbed.traces.lines import file_error, line_error, numbered_lines, parse_number
from testbed.traces.model import Change, Trace
from testbed.traces.quantities import recorded_quantities

COLUMNS = 6
BITS_PER_BYTE = 8


def load(path: str | Path, *, target: str, direction: str) -> Trace:
    """A looping link trace from a raw log; ConfigError naming file and line."""
    path = Path(path)
    quantities = recorded_quantities(target, direction)
    steps = _steps(path)
    begin, end = steps[0][0], steps[-1][1]
    changes = [
        Change((start - begin) / 1000, target, quantity, rate) for start, _, rate in steps for quantity in quantities
    ]
    return Trace(tuple(changes), end="loop", period=(end - begin) / 1000, name=path.stem)


def _steps(path: Path) -> list[tuple[float, float, float]]:
    """(from ms, to ms, bit/s) of each row that measured for a while."""
    steps: list[tuple[float, float, float]] = []
    before = 0.0
    for number, line in numbered_lines(path):
        cells = line.split()
        if len(cells) != COLUMNS:
            raise line_error(path, number, f"the row has {len(cells)} columns: a raw HSDPA or 4G log has {COLUMNS}")
        try:
            clock = parse_number(cells[1], "clock in milliseconds")
            size, length = parse_number(cells[4], "number of bytes"), parse_number(cells[5], "number of milliseconds")
        except ConfigError as error:
            raise line_error(path, number, error) from None
        if clock < before:
            raise line_error(path, number, f"the clock steps backwards from {before:g} to {clock:g} ms")
        before = clock
        if length == 0 and size > 0:
            raise line_error(path, number, f"{size:g} bytes in 0 milliseconds are no rate")
        if length > 0:
            start = clock - length if not steps else max(clock - length, steps[-1][1])
            steps.append((start, clock, size * BITS_PER_BYTE / length * 1000))
    if not steps or steps[0][0] == steps[-1][1]:
        raise file_error(path, "no row has milliseconds in which its bytes came: the last column says how many")
    return steps
