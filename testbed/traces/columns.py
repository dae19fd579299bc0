"""Parses the cells of a log: numbers as people and spreadsheets write them, times, and units in column names.

This module knows no files, targets or formats.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from testbed.errors import ConfigError
from testbed.strict_yaml import shown

MISSING = frozenset({"", "-", "--", "nan", "na", "n/a", "#n/a", "null", "none", "nil", "?"})
"""Cells, in upper or lower case, that mean that there is no measurement."""

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BITS = re.compile(
    r"(k|m|g|t|)(?:bps|bit[/_]?s|bits?/s(?:ec(?:ond)?)?|b/s|bits?_?per_?s(?:ec(?:ond)?)?)", re.IGNORECASE
)
_BYTES = re.compile(
    r"(k|K|m|M|g|G|t|T|)(?:Bps|B/s|[Bb]yte/?s|[Bb]ytes?/s(?:ec(?:ond)?)?|[Bb]ytes?_?per_?s(?:ec(?:ond)?)?|[Bb]ytes?_sec)"
)
_SECONDS = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
    "ms": 1e-3, "msec": 1e-3, "millis": 1e-3, "milliseconds": 1e-3,
    "us": 1e-6, "µs": 1e-6, "usec": 1e-6, "micros": 1e-6, "microseconds": 1e-6,
    "ns": 1e-9, "nsec": 1e-9, "nanos": 1e-9, "nanoseconds": 1e-9, "min": 60.0, "minutes": 60.0, "h": 3600.0,
}  # fmt: skip
RATE_UNITS = "bit/s, kbit/s, Mbit/s, Gbit/s, B/s, kB/s or MB/s"
TIME_UNITS = "s, ms, us, ns, min or h"

# The Unix times of 2001 to 2100 in seconds, milliseconds, microseconds and nanoseconds.
_UNIX = [(1e9 / unit, 4.1e9 / unit, unit) for unit in (1.0, 1e-3, 1e-6, 1e-9)]

_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_ZONE_NAME = re.compile(r"\s+(?![AP]M$)[A-Z]{2,5}$", re.ASCII)  # the time zone, which is the same for the whole file
_DATES = ("%Y.%m.%d_%H.%M.%S", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M:%S.%f", "%H:%M:%S", "%H:%M:%S.%f",
          "%a %b %d %H:%M:%S %Y")  # fmt: skip


def rate_factor(unit: object) -> float:
    """The bit/s in one unit of rate, as logs write it (`kbps`, `Mbit/s`, `MB/s`); raises ConfigError."""
    text = unit.strip() if isinstance(unit, str) else ""
    if (match := _BYTES.fullmatch(text)) is not None:
        return 8 * _PREFIXES[match.group(1).lower()]
    if (match := _BITS.fullmatch(text)) is not None:
        return _PREFIXES[match.group(1).lower()]
    raise ConfigError(f"{shown(unit)} is no unit of rate: write {RATE_UNITS}")


def time_factor(unit: object) -> float:
    """The seconds in one unit of time; raises ConfigError."""
    text = unit.strip() if isinstance(unit, str) else ""
    if text not in _SECONDS:
        raise ConfigError(f"{shown(unit)} is no unit of time: write {TIME_UNITS}")
    return _SECONDS[text]


def rate_factor_of(column: str) -> float | None:
    """The bit/s in the unit that a column's name contains: `dl_kbps`, `Throughput (Mbit/s)`; None if it has none."""
    for text in _unit_texts(column):
        try:
            return rate_factor(text)
        except ConfigError:
            continue
    return None


def time_factor_of(column: str) -> float | None:
    """The seconds in the unit that a column's name contains: `timestamp_ms`, `time [s]`; None if it has none."""
    return next((_SECONDS[text.lower()] for text in _unit_texts(column) if text.lower() in _SECONDS), None)


def unix_factor(time: float) -> float:
    """The seconds in the unit of this Unix time; 1 if it is not a Unix time of 2001 to 2100."""
    return next((unit for least, most, unit in _UNIX if least <= time <= most), 1.0)


def _unit_texts(column: str) -> list[str]:
    """The parts of a column's name that can be its unit: text in brackets, and its last one to three words."""
    column = column[:200]
    bracketed = [text.strip() for text in re.findall(r"[(\[]([^()\[\]]+)[)\]]", column)]
    camel = re.findall(r"(?<=[a-z])([KMGT](?:bps|Bps|bit/s|B/s)|Ms|Sec|Seconds|Millis)$", column)
    words = [word for word in re.split(r"[\s_.,:()\[\]-]+", column) if word]
    return [*bracketed, *camel, *("_".join(words[-count:]) for count in (3, 2, 1) if len(words) >= count)]


def is_missing(text: str) -> bool:
    """Whether a cell means that there is no measurement."""
    return text.casefold() in MISSING


@dataclass
class Numbers:
    """Reads the numbers of one file, which all have the same decimal sign."""

    decimal: str | None = None  # "." or ","; None until a cell shows it

    def read(self, text: str) -> float:
        """The finite number in a cell; raises ConfigError if it is no number or could mean two."""
        if _PLAIN.fullmatch(text) is not None:
            if "." in text:
                self._settle(".", text)
            number = float(text)
        else:
            number = self._read_with_commas(text)
        if not math.isfinite(number):
            raise ConfigError(f"{shown(text)} is not a number: it must be finite")
        return number

    def _read_with_commas(self, text: str) -> float:
        swapped = text.translate({ord(","): ".", ord("."): ","})
        if _GROUPED.fullmatch(text) is not None and (self.decimal == "." or text.count(",") > 1 or "." in text):
            self._settle(".", text)
            return float(text.replace(",", ""))
        if _COMMA.fullmatch(text) is not None or (_GROUPED.fullmatch(swapped) is not None and "," in text):
            if _GROUPED.fullmatch(text) is not None and self.decimal is None:
                raise ConfigError(f"{shown(text)} may be two numbers: say whether its decimal sign is '.' or ','")
            self._settle(",", text)
            return float(swapped.replace(",", ""))
        raise ConfigError(f"{shown(text)} is not a number")

    def _settle(self, sign: str, text: str) -> None:
        if self.decimal is None:
            self.decimal = sign
        elif self.decimal != sign:
            raise ConfigError(f"{shown(text)} is not a number whose decimal sign is {self.decimal!r}")


@dataclass
class Times:
    """Reads the times of one file: either all are numbers or all are dates, like the first one."""

    numbers: Numbers
    factor: float | None = None  # seconds in the unit of the numbers; None: the first number decides
    format: str | None = None  # of dates, for strptime
    _dates: bool | None = None
    _found: str = ""  # the format of the last date; empty for ISO 8601

    def read(self, text: str) -> float:
        """The seconds on the clock of the file; raises ConfigError if the text is no time."""
        if self._dates is None:
            self._dates = self.format is not None or not self._reads(text)
        if self._dates:
            return self._date(text)
        number = self.numbers.read(text)
        if self.factor is None:
            self.factor = unix_factor(number)
        return number * self.factor

    def _reads(self, text: str) -> bool:
        try:
            self.numbers.read(text)
        except ConfigError:
            return False
        return True

    def _date(self, text: str) -> float:
        plain = text if self.format is not None else _ZONE_NAME.sub("", text)
        forms = [self._found, *_DATES] if self.format is None else [self.format]
        for form in forms:
            try:
                moment = datetime.strptime(plain, form) if form else datetime.fromisoformat(plain)
                self._found = form
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError, re.error):
                continue
        like = f"as {shown(self.format)} has it"
        if self.format is None:
            like = "like '12.5' or '2024-05-01 12:30:00': give time_format"
        raise ConfigError(f"{shown(text)} is not a time {like}")
