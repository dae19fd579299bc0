"""Reads a trace file as numbered lines and words the errors about them.

Shared by all formats; it must not know any of them.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

from testbed.errors import ConfigError

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def line_error(path: Path, line: int, problem: object) -> ConfigError:
    """The one-sentence error about a line of a trace file."""
    return ConfigError(f"{path}, line {line}: {problem}")


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """All lines with their numbers from 1; ConfigError if the file is missing, no text, empty or has an empty line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"trace file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"trace file {path} is not UTF-8 text: byte {error.start} does not decode") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"trace file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise ConfigError(f"trace file {path} is empty: it must have at least one row")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise line_error(path, number, "the line is empty: remove it")
    return list(enumerate(lines, start=1))


def csv_cells(path: Path, number: int, line: str) -> list[str]:
    """The cells of one CSV line, without surrounding spaces; ConfigError naming the line."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True))]
    except csv.Error:
        raise line_error(path, number, "the line is not CSV: check its quotes and its line end") from None


def parse_number(text: str, what: str) -> float:
    """A bare, finite, non-negative number; ConfigError names `what` it should have been."""
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number) or number < 0:
        raise ConfigError(f"{text!r} is not a {what}: it must be a bare number, finite and not negative")
    return number + 0.0  # -0 reads as 0
