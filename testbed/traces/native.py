"""The native trace format: CSV with the header `time,target,quantity,value`.

    time,target,quantity,value
    0,link/b,rate,50 Mbit/s
    40,device/c,memory,96 MiB

The time is a bare number in the unit of the trace clock, and it never steps backwards from one row to the next. The
value has a unit. `rate` and `delay` mean both directions of a link. Lines that start with `#` are comments; before the
header, the comments `# end: loop` and `# period: 140` set the end rule, which is `hold` without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from testbed.errors import ConfigError
from testbed.files import write_text
from testbed.strict_yaml import shown
from testbed.traces.lines import file_error, line_error, lines_of, parse_number
from testbed.traces.quantities import PAIRS, checked, exact_text, file_quantities, number_text, quantity_of
from testbed.traces.recording import Change, Recording
from testbed.traces.series import EndRule
from testbed.traces.tables import Table, read

HEADER = ("time", "target", "quantity", "value")


def load(path: str | Path) -> Recording:
    """Read a native CSV file; raises ConfigError naming file and line."""
    path = Path(path)
    table = read(path)
    if tuple(name.casefold() for name in table.header) != HEADER:
        found = f"the header is {table.names()!r}"
        raise line_error(path, table.header_line or 1, f"{found}: it must be {','.join(HEADER)!r}")
    ending = _ending(table)
    changes: list[Change] = []
    before = 0.0
    for number, cells in table.rows():
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
        raise file_error(path, "the file has no rows after its header: it must have at least one")
    return Recording(tuple(changes), name=path.stem, **ending)


def dumps(trace: Recording) -> str:
    """The native CSV text of a trace; `load` reads it back as an equal trace."""
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
                continue  # the row of the other direction stands for both
            name = pair
        assert value is not None
        lines.append(f"{number_text(time)},{target},{name},{exact_text(target, quantity, value)}")
    return "\n".join(lines) + "\n"


def save(trace: Recording, path: str | Path) -> None:
    """Write the trace as a native CSV file; raises as `testbed.files.write_text` does."""
    write_text(path, dumps(trace))


def _ending(table: Table) -> dict[str, Any]:
    """The end rule and the period, as the comments before the header set them."""
    ending: dict[str, Any] = {}
    for number, line in enumerate(lines_of(table.text) if "#" in table.text else (), start=1):
        if not line.lstrip().startswith("#"):
            continue
        key, colon, value = (part.strip() for part in line.lstrip(" \t#").partition(":"))
        if not colon or key not in ("end", "period"):
            continue
        if number > table.header_line:
            raise line_error(table.path, number, f"the comment sets the {key} of the trace: move it before the header")
        if key == "end" and value not in get_args(EndRule):
            raise line_error(table.path, number, f"{shown(value)} is not an end rule: write hold, loop or stop")
        try:
            ending[key] = value if key == "end" else parse_number(value, "period")
        except ConfigError as error:
            raise line_error(table.path, number, error) from None
    return ending


def _row(cells: list[str]) -> list[Change]:
    time_text, target, word, value_text = cells
    time = parse_number(time_text, "time")
    changes = []
    for quantity in file_quantities(target, word):
        value = checked(target, quantity, quantity_of(target, quantity).parse(value_text))
        changes.append(Change(time, target, quantity, value))
    return changes
