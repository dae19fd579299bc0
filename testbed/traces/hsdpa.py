"""Raw logs of bytes received while commuting: Norway's HSDPA (Riiser et al., MMSys 2013) and Ghent's 4G (2016).

The file has no header. Its six columns are: Unix time (Norway in seconds, Ghent in milliseconds), a monotonic clock in
milliseconds, latitude, longitude, bytes since the row before, milliseconds since the row before. The bytes of a row
arrived in the milliseconds *before* its time, so its rate holds up to that time. The trace begins with the first row's
milliseconds and loops at the last row; its mean rate is that of all bytes. If the clock advances by more than a row's
milliseconds, nothing was measured in between, and the earlier rate holds.
"""

from __future__ import annotations

from pathlib import Path

from testbed.traces.lines import file_error, line_error, number_rows
from testbed.traces.recording import Recording, looping_link

COLUMNS = 6
_READ = {1: "clock in milliseconds", 4: "number of bytes", 5: "number of milliseconds"}  # column -> what it holds
BITS_PER_BYTE = 8


def load(path: str | Path, *, target: str, direction: str) -> Recording:
    """A looping link trace from a raw log; raises ConfigError naming file and line."""
    path = Path(path)
    steps = _steps(path)
    begin, end = steps[0][0], steps[-1][1]
    rates = [((start - begin) / 1000, rate) for start, _, rate in steps]
    return looping_link(path, target, direction, rates, (end - begin) / 1000)


def _steps(path: Path) -> list[tuple[float, float, float]]:
    """(start in ms, end in ms, bit/s) of each row whose time span is not empty."""
    steps: list[tuple[float, float, float]] = []
    before = 0.0
    for number, (clock, size, length) in number_rows(path, _READ, COLUMNS, f"a raw HSDPA or 4G log has {COLUMNS}"):
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
