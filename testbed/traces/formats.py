"""The trace formats by name, and how the format of a file is guessed.

To add a format, write a module with `load(path, *, target, direction, ...) -> Recording` and add a line to `FORMATS`.
A CSV log with a header needs no module: a line in `traces.logs.LAYOUTS` makes it a format of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from testbed.strict_yaml import shown, suggest
from testbed.traces import hsdpa, logs, mahimahi, native, pensieve, sabre
from testbed.traces.lines import file_error, line_error, lines_of, shortened, trace_text
from testbed.traces.recording import Recording
from testbed.traces.tables import Table, parse

FORMATS: Mapping[str, Callable[..., Recording]] = {
    "native": native.load,
    "mahimahi": mahimahi.load,
    "pensieve": pensieve.load,
    "hsdpa": hsdpa.load,
    "sabre": sabre.load,
    "csv": logs.load,
    **{name: partial(logs.load, layout=name) for name in logs.LAYOUTS},
}
# mahimahi itself names its files LINK.up and LINK.down
SUFFIXES = {".mahimahi": "mahimahi", ".up": "mahimahi", ".down": "mahimahi", ".pensieve": "pensieve"}
COLUMNS = ("time", "step", "down", "up")  # options that only a log with columns takes
COMMON = ("end", "period", "offset", "clip", "scale")  # options of `Trace.load`, which every format takes
_INTERNAL = ("layout",)  # parameters of a format's `load` that are no options for users


def guess(path: str | Path, columns: bool = False) -> str:
    """The name of a file's format, found by its suffix, else by its header, else by its first row.

    `columns` says that the user named columns; then a log with an unknown header is a `csv`. Raises ConfigError that
    names the header found and the known formats.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and not columns:
        return SUFFIXES[suffix]
    text = trace_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        return "sabre"
    table = parse(path, text[: 2**16] + "\n" if "\n" in text[: 2**16] else text)
    if tuple(name.casefold() for name in table.header) == native.HEADER:
        return "native"
    known = logs.layout_of(table.header)
    if known is not None or columns:
        return known or "csv"
    if table.header_line:
        formats = "; ".join([f"native ({','.join(native.HEADER)})", *(_described(name) for name in logs.LAYOUTS)])
        found = f"the header {shortened(table.names(), 120)!r} is none of {formats}"
        raise line_error(path, table.header_line, f"{found}; for any other, name the columns by time, down and up")
    return _guess_by_row(path, table)


def _described(name: str) -> str:
    return f"{name} ({','.join(logs.LAYOUTS[name].columns)})"


def _guess_by_row(path: Path, table: Table) -> str:
    """The format of a file without a header."""
    row = next((line for line in lines_of(table.text) if line.strip() and not line.lstrip().startswith("#")), "")
    if len(row.split()) == hsdpa.COLUMNS:
        return "hsdpa"
    if len(row.split()) == 2 and table.delimiter != ",":
        return "pensieve"
    raise file_error(
        path,
        f"the format of the trace file is not clear from its name or its first row {shown(row)}: name one of "
        f"{', '.join(FORMATS)}",
    )


def read(path: str | Path, format: str | None = None, **options: Any) -> Recording:
    """Read a trace file; options that are None count as not given. Raises ConfigError naming the file."""
    path = Path(path)
    given = {key: value for key, value in options.items() if value is not None}
    name = guess(path, columns=any(key in given for key in COLUMNS)) if format is None else format
    if not isinstance(name, str) or name not in FORMATS:
        raise file_error(path, f"{shown(name)} is not a trace format: write one of {', '.join(FORMATS)}")
    _check_options(path, name, given)
    return FORMATS[name](path, **given)


def _check_options(path: Path, name: str, given: Mapping[str, Any]) -> None:
    parameters = [p for p in inspect.signature(FORMATS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [parameter.name for parameter in parameters if parameter.name not in _INTERNAL]
    for option in given:
        if option not in known:
            raise file_error(path, f"a {name} trace has no option {shown(option)}{suggest(option, [*known, *COMMON])}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in given:
            missing = f"the trace file needs a {parameter.name}: a {name} trace does not say where it applies"
            raise file_error(path, f"{missing}, so give target (link/DEVICE) and direction (up, down or both)")
