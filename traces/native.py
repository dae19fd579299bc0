"""The native trace format: CSV with the header `time,target,quantity,value`.

    time,target,quantity,value
    0,link/b,rate,50 Mbit/s
    40,device/c,memory,96 MiB

The time is a bare number in the trace clock's unit and never steps backwards from one row to the next; the
value carries its unit; `rate` and `delay` mean both directions of a link. Lines that start with `#` before
the header are comments, and of those `# end: loop` and `# period: 140` set the end rule (else `hold`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from traces.lines import csv_cells, line_error, numbered_lines, parse_number
from traces.model import Change, Trace
from traces.quantities import PAIRS, checked, exact_text, file_quantities, number_text, quantity_of

HEADER = ("time", "target", "quantity", "value")


def load(path: str | Path) -> Trace:
    """Read a native CSV file; ConfigError naming file and line."""
    path = Path(path)
    lines = numbered_lines(path)
    ending: dict[str, Any] = {}
    while lines and lines[0][1].startswith("#"):
        number, comment = lines.pop(0)
        ending.update(_ending(path, number, comment))
    if not lines or tuple(csv_cells(path, *lines[0])) != HEADER:
        number, found = lines[0] if lines else (1, "")
        raise line_error(path, number, f"the header is {found!r:.80}: it must be {','.join(HEADER)!r}")
    changes: list[Change] = []
    before = 0.0
    for number, line in lines[1:]:
        cells = csv_cells(path, number, line)
        try:
            rows = _row(cells)
        except ConfigError as error:
            raise line_error(path, number, error) from None
        if rows[0].time_s < before:
            times = f"the time steps backwards from {before:g} to {rows[0].time_s:g}"
            raise line_error(path, number, f"{times}: sort the rows by time")
        before = rows[0].time_s
        changes += rows
    if not changes:
        raise ConfigError(f"trace file {path} has no rows after its header: it must have at least one")
    try:
        return Trace(tuple(changes), name=path.stem, **ending)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def dumps(trace: Trace) -> str:
    """The trace as native CSV text, which reads back as an equal trace."""
    lines = []
    if trace.period is not None:
        lines += [f"# end: {trace.end}", f"# period: {number_text(trace.period)}"]
    lines.append(",".join(HEADER))
    values = {(c.time_s, c.target, c.quantity): c.value for c in trace.changes}
    for (time, target, quantity), value in values.items():
        pair = next((word for word, both in PAIRS.items() if quantity in both), None)
        name = quantity
        if pair is not None and len({values.get((time, target, one)) for one in PAIRS[pair]}) == 1:
            if quantity != PAIRS[pair][0]:
                continue  # said by the other direction's row
            name = pair
        assert value is not None
        lines.append(f"{number_text(time)},{target},{name},{exact_text(target, quantity, value)}")
    return "\n".join(lines) + "\n"


def save(trace: Trace, path: str | Path) -> None:
    """Write the trace as a native CSV file; ConfigError when the file cannot be written."""
    try:
        Path(path).write_text(dumps(trace), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"trace file {path} cannot be written: {error.strerror or error}") from None


def _ending(path: Path, number: int, comment: str) -> dict[str, Any]:
    key, colon, value = (part.strip() for part in comment.lstrip("#").partition(":"))
    if not colon or key not in ("end", "period"):
        return {}
    if key == "end":
        if value not in ("hold", "loop", "stop"):
            raise line_error(path, number, f"{value!r} is not an end rule: write hold, loop or stop")
        return {"end": value}
    try:
        return {"period": parse_number(value, "period")}
    except ConfigError as error:
        raise line_error(path, number, error) from None


def _row(cells: list[str]) -> list[Change]:
    if len(cells) != len(HEADER):
        raise ConfigError(f"the row has {len(cells)} columns: it must have {len(HEADER)}, {','.join(HEADER)}")
    time_text, target, word, value_text = cells
    time = parse_number(time_text, "time")
    changes = []
    for quantity in file_quantities(target, word):
        value = checked(target, quantity, quantity_of(target, quantity).parse(value_text))
        changes.append(Change(time, target, quantity, value))
    return changes
