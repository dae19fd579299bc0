"""G-NetTrack logs of drive tests, as in the Irish 5G data set (Raca et al., MMSys 2020).

CSV with a header; `Timestamp` is `2019.12.14_10.16.30`, `DL_bitrate` becomes `down` and `UL_bitrate`
becomes `up`, both in kbit/s as *achieved*, so they bound the link's capacity from below and 0 may mean that
nobody sent. The log's seconds repeat, are skipped and once even step back. The rule: rows are sorted by
their second and keep the file's order within it; of rows with the same second the last one wins; over
skipped seconds the value holds; `-` is no sample, and the value before it holds.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from testbed.errors import ConfigError
from traces.lines import csv_cells, line_error, numbered_lines, parse_number
from traces.model import Change, Trace
from traces.quantities import recorded_quantities

TIMESTAMP = "Timestamp"
COLUMNS = {"down": "DL_bitrate", "up": "UL_bitrate"}
TIME_FORMAT = "%Y.%m.%d_%H.%M.%S"
NULL = "-"
BITS_PER_KILOBIT = 1e3


def load(path: str | Path, *, target: str, direction: str) -> Trace:
    """A looping link trace in seconds since the log's first second; `both` gives each direction its own column.

    The period is the log's last second. Raises ConfigError naming file and line.
    """
    path = Path(path)
    quantities = recorded_quantities(target, direction)
    samples = _samples(path, quantities)
    samples.sort(key=lambda sample: sample[0])  # stable
    seconds = {stamp: (stamp - samples[0][0]).total_seconds() for stamp, _ in samples}
    changes = [
        Change(seconds[stamp], target, quantity, rate) for stamp, rates in samples for quantity, rate in rates.items()
    ]
    for quantity in quantities:
        if all(change.quantity != quantity for change in changes):
            raise ConfigError(f"trace file {path} has no value in its column {COLUMNS[quantity]}")
    if not (period := max(seconds.values())):
        raise ConfigError(f"trace file {path} covers less than two seconds: a looping trace needs a period above 0")
    return Trace(tuple(changes), end="loop", period=period, name=path.stem)


def _samples(path: Path, quantities: tuple[str, ...]) -> list[tuple[datetime, dict[str, float]]]:
    """(second, rate in bit/s by quantity) per row, in the file's order."""
    lines = numbered_lines(path)
    header = csv_cells(path, *lines[0])
    wanted = {TIMESTAMP: 0} | {COLUMNS[quantity]: 0 for quantity in quantities}
    for column in wanted:
        if column not in header:
            raise line_error(path, 1, f"the header has no column {column!r}: this is not a G-NetTrack log")
        wanted[column] = header.index(column)
    samples = []
    for number, line in lines[1:]:
        cells = csv_cells(path, number, line)
        if len(cells) != len(header):
            raise line_error(path, number, f"the row has {len(cells)} columns: the header has {len(header)}")
        try:
            stamp = datetime.strptime(cells[wanted[TIMESTAMP]], TIME_FORMAT)
        except ValueError:
            found = cells[wanted[TIMESTAMP]]
            raise line_error(path, number, f"{found!r} is not a time like '2019.12.14_10.16.30'") from None
        rates = {}
        for quantity in quantities:
            text = cells[wanted[COLUMNS[quantity]]]
            if text == NULL:
                continue
            try:
                rates[quantity] = parse_number(text, "rate in kbit/s") * BITS_PER_KILOBIT
            except ConfigError as error:
                raise line_error(path, number, error) from None
        samples.append((stamp, rates))
    if not samples:
        raise ConfigError(f"trace file {path} has no rows after its header: it must have at least one")
    return samples
