"""The file formats by name, and how a file's format is guessed.

To add one: a module with `load(path, *, target, direction, ...) -> Trace`, and a line in `FORMATS`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from traces import irish5g, mahimahi, native, pensieve
from traces.model import Trace

FORMATS: Mapping[str, Callable[..., Trace]] = {
    "native": native.load,
    "mahimahi": mahimahi.load,
    "pensieve": pensieve.load,
    "irish5g": irish5g.load,
}
# mahimahi's own files are named LINK.up and LINK.down
SUFFIXES = {".mahimahi": "mahimahi", ".up": "mahimahi", ".down": "mahimahi", ".pensieve": "pensieve"}


def guess(path: str | Path) -> str:
    """The format's name from the suffix and, for CSV, from the header's first column."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix == ".csv":
        try:
            with path.open("rb") as file:
                first = file.read(len(irish5g.TIMESTAMP) + 1)
        except OSError:
            return "native"  # whose reader says what is wrong with the file
        return "irish5g" if first == f"{irish5g.TIMESTAMP},".encode() else "native"
    raise ConfigError(f"the format of trace file {path} is not clear from its name: name one of {', '.join(FORMATS)}")


def load(
    path: str | Path,
    format: str | None = None,
    *,
    end: str | None = None,
    period: float | None = None,
    **options: Any,
) -> Trace:
    """Read a trace file; `end` and `period` override what the format or the file says.

    Options that are None count as not given. Raises ConfigError.
    """
    name = guess(path) if format is None else format
    if name not in FORMATS:
        raise ConfigError(f"{name!r} is not a trace format: for {path} write one of {', '.join(FORMATS)}")
    given = {key: value for key, value in options.items() if value is not None}
    _check_options(Path(path), name, given)
    return _with_end(FORMATS[name](path, **given), path, end, period)


def _check_options(path: Path, name: str, given: Mapping[str, Any]) -> None:
    parameters = [p for p in inspect.signature(FORMATS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    known = [parameter.name for parameter in parameters]
    for option in given:
        if option not in known:
            allowed = ", ".join([*known, "end", "period"])
            raise ConfigError(f"a {name} trace has no option {option!r}: for {path} there are {allowed}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in given:
            missing = f"trace file {path} needs a {parameter.name}: a {name} trace does not say where it applies"
            raise ConfigError(f"{missing}, so give target (link/DEVICE) and direction (up, down or both)")


def _with_end(trace: Trace, path: str | Path, end: str | None, period: float | None) -> Trace:
    if end is None and period is None:
        return trace
    number = isinstance(period, int | float) and not isinstance(period, bool) and math.isfinite(period)
    if period is not None and not number:
        raise ConfigError(f"{period!r} is not a period for trace file {path}: it must be a bare, finite number")
    rule: Any = trace.end if end is None else end
    if period is None and rule != "hold":
        period = trace.period
    try:
        return replace(trace, end=rule, period=period)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
