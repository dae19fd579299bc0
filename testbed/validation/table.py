"""Reads a table of published measurements: one row per cell of a source, in the columns of `data/published.csv`.

A cell may hold several values (`590/522`, `5.36/7.20/8.36`). Each becomes a measurement of its own, named by its part
of the metric. Whatever is in a row, it becomes at least one measurement.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.errors import ConfigError

BUNDLED = Path(__file__).with_name("data") / "published.csv"
COLUMNS = ("source", "where", "model", "quant_bits", "devices", "link", "metric", "value", "unit", "notes")
LARGEST_FIELD = 1 << 20  # characters of one cell
LEAST, MOST = 1e-9, 1e12  # a number outside these, in any unit, is a slip; so is a token that takes no time

Kind = Literal["token", "compute", "network", "sent", "received", "transfer", "fits", "prompt", "streaming", "unknown"]

# The unit of a metric, in lower case -> its size in seconds, tokens per second, bytes or bytes per second. Published
# kB are KiB. A unit may end in "/token".
_SIZES = {
    "ms": 1e-3, "s": 1.0, "us": 1e-6, "token/s": 1.0, "t/s": 1.0, "tps": 1.0, "b": 1.0,
    "kb": 1024.0, "kib": 1024.0, "mb": 1024.0**2, "mib": 1024.0**2, "gb/s": 1e9, "mb/s": 1e6,
}  # fmt: skip
_TIMES, _RATES = ("ms", "s", "us"), ("token/s", "t/s", "tps")
_BYTES = ("b", "kb", "kib", "mb", "mib")
_NUMBER = re.compile(r"[~≈]?\s*(-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?:±.*|\(.*\))?", re.IGNORECASE)
_YES, _NO = ("yes", "true", "fits"), ("no", "false")
_SEVERAL = re.compile(r"\b\d{1,6}(?:\s*/\s*\d{1,6})+\b")


@dataclass(frozen=True)
class Row:
    """One line of a table, as text."""

    line: int
    source: str
    where: str
    model: str
    quant_bits: str
    devices: str
    link: str
    metric: str
    value: str
    unit: str
    notes: str


@dataclass(frozen=True)
class Measurement:
    """One published value, in its own unit; `size` turns it into SI units."""

    row: Row
    metric: str  # of this value
    kind: Kind
    value: float | bool | None  # None: no number
    size: float = 1.0
    threads: int | None = None  # if its part of the metric says so

    @property
    def seconds(self) -> float | None:
        """The seconds of one token that this value says, or None."""
        if self.value is None or isinstance(self.value, bool) or self.kind not in ("token", "compute", "network"):
            return None
        if self.is_rate:
            return 1.0 / (self.value * self.size) if self.value > 0 else None
        return self.value * self.size

    @property
    def is_rate(self) -> bool:
        """Whether it is a number of tokens per second."""
        return _unit(self.row.unit) in _RATES


def read_table(path: str | Path) -> list[Row]:
    """The rows of a CSV file; raises ConfigError naming the file and what is wrong with it."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such table") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a table in UTF-8: {error}") from error
    if "\0" in text:
        raise ConfigError(f"{path} has a null character, so it is no CSV file")
    csv.field_size_limit(LARGEST_FIELD)
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="", restkey="")
    try:
        names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise ConfigError(f"{path}: the column {missing[0]!r} is missing; a table has {', '.join(COLUMNS)}")
        found = []
        for fields in reader:
            cells = {column: " ".join(str(fields[names[column]] or "").split()) for column in COLUMNS}
            if any(cells.values()):
                found.append(Row(reader.line_num, **cells))
    except csv.Error as error:
        raise ConfigError(f"{path}: line {reader.line_num} is no CSV: {error}") from error
    return found


def measurements(row: Row) -> list[Measurement]:
    """The values of a row: one, or each part of a compound cell."""
    parts = [part.strip() for part in row.value.split("/")]
    if len(parts) == 1 or not all(_NUMBER.fullmatch(part) for part in parts):
        return [_measurement(row, row.metric, row.value)]
    return [
        _measurement(row, label, part, threads)
        for part, (label, threads) in zip(parts, _labels(row.metric, len(parts)), strict=True)
    ]


def _labels(metric: str, count: int) -> Iterator[tuple[str, int | None]]:
    """The metric and, where it says so, the threads of each of `count` values."""
    several = _SEVERAL.search(metric)
    if several and several.group().count("/") == count - 1:
        threads = "thread" in metric.lower()
        for number in re.split(r"\s*/\s*", several.group()):
            yield metric.replace(several.group(), number), int(number) if threads else None
        return
    parts = [part.strip() for part in metric.split("/")]
    for number in range(count):
        yield parts[number] if len(parts) == count else f"{metric} [{number + 1}]", None


def _unit(text: str) -> str:
    """A unit as `_SIZES` has it: `milliseconds per token` is `ms`, `tok / sec` is `token/s`."""
    name = re.sub(r"\s*(?:/|\bper\b)\s*", "/", text.lower().strip())
    name = re.sub("[µμ]s", "us", name)
    name = re.sub(r"\bmilliseconds?\b|\bmsec\b", "ms", name)
    name = re.sub(r"\bseconds?\b|\bsecs?\b", "s", name)
    return re.sub(r"\btok(?:en)?s?\b", "token", name).removesuffix("/token")


def _measurement(row: Row, metric: str, text: str, threads: int | None = None) -> Measurement:
    unit = _unit(row.unit)
    kind = "fits" if "not enough" in text.lower() else _kind(metric, row.metric, unit)
    if kind == "fits":
        word = text.strip().lower()
        return Measurement(
            row, metric, kind, True if word in _YES else False if word in _NO or "not enough" in word else None
        )
    match = _NUMBER.fullmatch(text.strip())
    value = float(match.group(1).replace(",", "")) if match else None
    if value is not None and not (LEAST <= value <= MOST or (value == 0 and kind not in ("token", "compute"))):
        value = None
    return Measurement(row, metric, kind, value, _SIZES.get(unit, 1.0), threads)


def _kind(metric: str, whole: str, unit: str) -> Kind:
    name = metric.lower()
    if unit == "bool" or name == "fits":
        return "fits"
    if unit in _TIMES:
        if any(word in name for word in ("transfer", "sync", "network", "communication")):
            return "network"
        if any(word in name for word in ("inference time", "comput", "evaluation of weights")):
            return "compute"
        if any(word in name for word in ("prompt", "prefill", "first token", "ttft")):
            return "unknown"
        return (
            "token" if any(word in name for word in ("token", "generation", "decod", "eval", "latency")) else "unknown"
        )
    if unit in _RATES:
        return "prompt" if any(word in name for word in ("prompt", "prefill", "pp512", "prefil")) else "token"
    if unit in _BYTES:
        if "sent" in name and "rec" not in name:
            return "sent"
        if "received" in name and "sent" not in name:
            return "received"
        return "transfer" if any(word in name for word in ("transfer", "sent", "traffic")) else "unknown"
    return "streaming" if unit in ("gb/s", "mb/s") and "stream" in whole.lower() else "unknown"
