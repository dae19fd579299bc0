"""The file formats by name, how a file's format is found, and the options that all of them take.

To add one: a module with `load(path, *, target, direction, ...) -> Trace`, and a line in `FORMATS`. A log with a header
needs none: a line in `traces.logs.LAYOUTS` makes it a format of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import shown, suggest
from testbed.traces import cutting, hsdpa, logs, mahimahi, native, pensieve, sabre
from testbed.traces.lines import file_error, line_error, lines_of, option_number, shortened, trace_text
from testbed.traces.model import Trace
from testbed.traces.tables import Table, parse

FORMATS: Mapping[str, Callable[..., Trace]] = {
    "native": native.load,
    "mahimahi": mahimahi.load,
    "pensieve": pensieve.load,
    "hsdpa": hsdpa.load,
    "sabre": sabre.load,
    "csv": logs.load,
    **{name: partial(logs.load, layout=name) for name in logs.LAYOUTS},
}
# mahimahi's own files are named LINK.up and LINK.down
SUFFIXES = {".mahimahi": "mahimahi", ".up": "mahimahi", ".down": "mahimahi", ".pensieve": "pensieve"}
COLUMNS = ("time", "step", "down", "up")  # options that only a log with columns takes
COMMON = ("end", "period", "offset", "clip", "scale")
_INSIDE = ("layout",)  # parameters that are no options


def guess(path: str | Path, columns: bool = False) -> str:
    """The format's name: from the suffix where it tells, else from the header or the first row.

    With `columns`, which the user has named, a log whose header is not known is one too. Raises ConfigError that names
    the header found and the formats known.
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


def load(
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
    """Read a trace file; `end` and `period` override what the format or the file says.

    `scale` multiplies a link's rates, `clip` takes a part, `offset` moves it in time, in this order. Options that are
    None count as not given. Raises ConfigError.
    """
    path = Path(path)
    given = {key: value for key, value in options.items() if value is not None}
    name = guess(path, columns=any(key in given for key in COLUMNS)) if format is None else format
    if not isinstance(name, str) or name not in FORMATS:
        raise file_error(path, f"{shown(name)} is not a trace format: write one of {', '.join(FORMATS)}")
    _check_options(path, name, given)
    try:
        trace = FORMATS[name](path, **given)
        if scale is not None:
            trace = cutting.scaled(trace, option_number(scale, "a factor (scale)", least=1e-9))
        if clip is not None:
            trace = cutting.clipped(trace, *_span(clip))
        if offset is not None:
            trace = cutting.shifted(trace, option_number(offset, "a number of seconds (offset)"))
        return _with_end(trace, end, period)
    except ConfigError as error:
        raise file_error(path, error) from None


def _check_options(path: Path, name: str, given: Mapping[str, Any]) -> None:
    parameters = [p for p in inspect.signature(FORMATS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [parameter.name for parameter in parameters if parameter.name not in _INSIDE]
    for option in given:
        if option not in known:
            raise file_error(path, f"a {name} trace has no option {shown(option)}{suggest(option, [*known, *COMMON])}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in given:
            missing = f"the trace file needs a {parameter.name}: a {name} trace does not say where it applies"
            raise file_error(path, f"{missing}, so give target (link/DEVICE) and direction (up, down or both)")


def _span(clip: object) -> tuple[float, float]:
    """The two ends of a clip, which may be written `10,60`."""
    ends = clip.split(",") if isinstance(clip, str) else clip
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise ConfigError(f"{shown(clip)} is no part of a trace (clip): write its two ends, like 10,60")
    try:
        values = [float(one) if isinstance(one, str) else one for one in ends]
    except ValueError:
        raise ConfigError(f"{shown(clip)} is no part of a trace (clip): its ends must be numbers") from None
    begin, until = (option_number(value, "an end of a part (clip)", least=0.0) for value in values)
    return begin, until


def _with_end(trace: Trace, end: str | None, period: float | None) -> Trace:
    if end is None and period is None:
        return trace
    if period is not None:
        period = option_number(period, "a period", most=1e15)
    rule: Any = trace.end if end is None else end
    if period is None and rule != "hold":
        period = trace.period
    return replace(trace, end=rule, period=period)
