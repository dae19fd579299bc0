"""Reads the lines, numbers and options of a trace file, and words the errors about them.

All formats share this module, and it knows none of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from testbed.errors import ConfigError
from testbed.files import LARGEST_BYTES, read_text
from testbed.progress import printable
from testbed.strict_yaml import shown

MOST_LINES = 500_000
"""The most lines that are read one by one: six days of a row a second. Packet traces have their own reader."""

_LONGEST_PROBLEM = 600  # characters; a cell may have thousands
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def shortened(text: object, most: int = 80) -> str:
    """Printable text, of which only the two ends are kept if it is long."""
    shown_text = printable(str(text))
    return shown_text if len(shown_text) <= most else f"{shown_text[: most // 2]}...{shown_text[-most // 2 + 3 :]}"


def file_error(path: str | Path, problem: object) -> ConfigError:
    """The one-sentence error about a trace file; a problem that already names the file stays as it is."""
    name = shortened(path, 200)
    if str(problem).startswith(name):
        return ConfigError(problem)
    return ConfigError(f"{name}: {shortened(problem, _LONGEST_PROBLEM)}")


def line_error(path: Path, line: int, problem: object) -> ConfigError:
    """The one-sentence error about a line of a trace file."""
    return ConfigError(f"{shortened(path, 200)}, line {line}: {shortened(problem, _LONGEST_PROBLEM)}")


def trace_text(path: Path, limit_bytes: int = LARGEST_BYTES) -> str:
    """The text of a trace file, with all line ends as newlines.

    Raises ConfigError if the file is missing, not a regular file, not text, too large or empty.
    """
    try:
        text = read_text(path, limit_bytes).replace("\r\n", "\n").replace("\r", "\n")
    except ConfigError as error:
        raise ConfigError(shortened(error, _LONGEST_PROBLEM)) from error
    if not text.strip():
        raise file_error(path, "the file is empty: it must have at least one row")
    return text


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines, numbered from 1, without comments (`#`) and empty lines; raises ConfigError as `trace_text` does."""
    text = trace_text(path)
    refuse_too_many(path, text)
    lines = [
        (number, line.strip())
        for number, line in enumerate(lines_of(text), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise file_error(path, "the file has nothing but comments: it must have at least one row")
    return lines


def number_rows(path: Path, columns: Mapping[int, str], width: int, expected: str) -> Iterator[tuple[int, list[float]]]:
    """(line, numbers) of each row of a file that has no header and `width` columns separated by white space.

    `columns` names the columns to read. Raises ConfigError naming the line; `expected` ends the sentence about a row of
    another width.
    """
    for number, line in numbered_lines(path):
        cells = line.split()
        if len(cells) != width:
            raise line_error(path, number, f"the row has {len(cells)} columns: {expected}")
        try:
            yield number, [parse_number(cells[column], what) for column, what in columns.items()]
        except ConfigError as error:
            raise line_error(path, number, error) from None


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text without their ends, one at a time."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        yield text[begin:end]
        begin = end + 1


def refuse_too_many(path: Path, text: str) -> None:
    """Raise ConfigError for a text with more than `MOST_LINES` lines."""
    lines = text.count("\n")
    if lines > MOST_LINES:
        raise file_error(path, f"the file has {lines} lines, and at most {MOST_LINES} are read: cut it into parts")


def parse_number(text: str, what: str) -> float:
    """A bare, finite, non-negative number; raises ConfigError that says `what` it should be."""
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number) or number < 0:
        raise ConfigError(f"{shown(text)} is not a {what}: it must be a bare number, finite and not negative")
    return number + 0.0  # -0 reads as 0


def option_number(value: object, what: str, least: float = -1e9, most: float = 1e9) -> float:
    """The number that an option gives, from `least` to `most`; raises ConfigError that says `what` it should be."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigError(f"{shown(value)} is not {what}: it must be a bare, finite number from {least:g} to {most:g}")
    return float(value)
