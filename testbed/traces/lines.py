"""Reads a trace file as numbered lines, its numbers and its options, and words the errors about them.

Shared by all formats; it must not know any of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import ConfigError
from testbed.files import LARGEST_BYTES, read_text
from testbed.strict_yaml import shown

MOST_LINES = 500_000
"""What is read line by line, in seconds: six days of samples a second. Packet traces have their own reader."""

_LONGEST_PROBLEM = 600  # characters; a cell may have thousands
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def printable(text: object) -> str:
    """Text from a file, or its name, as a terminal may be shown it: what is no letter or sign is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def shortened(text: object, most: int = 80) -> str:
    """`printable`, and of a long text its two ends."""
    shown_text = printable(text)
    return shown_text if len(shown_text) <= most else f"{shown_text[: most // 2]}...{shown_text[-most // 2 + 3 :]}"


def file_error(path: str | Path, problem: object) -> ConfigError:
    """The one-sentence error about a trace file as a whole; a problem that names the file already stays as it is."""
    name = shortened(path, 200)
    if str(problem).startswith(name):
        return ConfigError(problem)
    return ConfigError(f"{name}: {shortened(problem, _LONGEST_PROBLEM)}")


def line_error(path: Path, line: int, problem: object) -> ConfigError:
    """The one-sentence error about a line of a trace file."""
    return ConfigError(f"{shortened(path, 200)}, line {line}: {shortened(problem, _LONGEST_PROBLEM)}")


def trace_text(path: Path, limit_bytes: int = LARGEST_BYTES) -> str:
    """The text of a trace file, whose lines then all end alike.

    ConfigError if it is missing, no regular file, no text, too large or empty.
    """
    try:
        text = read_text(path, limit_bytes).replace("\r\n", "\n").replace("\r", "\n")
    except ConfigError as error:
        raise ConfigError(shortened(error, _LONGEST_PROBLEM)) from error
    if not text.strip():
        raise file_error(path, "the file is empty: it must have at least one row")
    return text


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines with their numbers from 1, without comments (`#`) and empty lines; ConfigError as `trace_text`."""
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


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text without their ends, made one at a time."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        yield text[begin:end]
        begin = end + 1


def refuse_too_many(path: Path, text: str) -> None:
    """Raise a ConfigError for a text of more lines than are read one by one."""
    lines = text.count("\n")
    if lines > MOST_LINES:
        raise file_error(path, f"the file has {lines} lines, and at most {MOST_LINES} are read: cut it into parts")


def parse_number(text: str, what: str) -> float:
    """A bare, finite, non-negative number; ConfigError names `what` it should have been."""
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number) or number < 0:
        raise ConfigError(f"{shown(text)} is not a {what}: it must be a bare number, finite and not negative")
    return number + 0.0  # -0 reads as 0


def option_number(value: object, what: str, least: float = -1e9, most: float = 1e9) -> float:
    """A number that an option gives, from `least` to `most`; ConfigError names `what` it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigError(f"{shown(value)} is not {what}: it must be a bare, finite number from {least:g} to {most:g}")
    return float(value)
