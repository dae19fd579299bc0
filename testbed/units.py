"""Parses and formats quantities with units; inside the package all quantities are SI numbers.

A quantity is a float or an int in seconds, bytes, bit/s, byte/s or FLOP/s. Files and options write it with a unit:
`50 Mbit/s`, `2 ms`, `256 MiB`, `8 GFLOP/s`, `3 GB/s`. Bits and bytes never mix: a link rate in `MB/s` is an error, and
so is a streaming rate in `Mbit/s`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from testbed.errors import ConfigError
from testbed.strict_yaml import LARGEST_INTEGER, shown

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

RATE = {f"{p}bit/s": f for p, f in _DECIMAL.items()}
BYTES = {f"{p}B": f for p, f in (_DECIMAL | _BINARY).items()}
BANDWIDTH = {f"{p}B/s": f for p, f in (_DECIMAL | _BINARY).items()}
COMPUTE = {f"{p}FLOP/s": f for p, f in _DECIMAL.items()}
DURATION = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0}
FRACTION = {"": 1.0, "%": 0.01}
POWER = {"W": 1.0, "mW": 1e-3}
SPEED = dict.fromkeys(("tok/s", "token/s", "tokens/s", "t/s", ""), 1.0)
TIME_PER_BYTE = {"s/B": 1.0, "us/B": 1e-6, "ns/B": 1e-9}

_QUANTITY = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)")
_LONGEST = 100  # the most characters of a quantity

# Limits far above any real device. They keep sums and products of quantities finite, and sums of bytes within 64 bits.
MOST_BPS = MOST_BYTES_PER_S = 1e15
MOST_FLOPS = 1e18
MOST_BYTES = 2.0**50
MOST_SECONDS = 1e9
MOST_WATTS = 1e6
MOST_TIMES = 1e6

LEAST_SHOWN = 1e-6  # a smaller number is shown as being smaller


def _parse(value: object, units: Mapping[str, float], kind: str, example: str, most: float, limit: str) -> float:
    plain = isinstance(value, str | float) or (type(value) is int and abs(value) < LARGEST_INTEGER)
    text = str(value).strip() if plain else ""
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    given = shown(text) if plain else shown(value)
    if match is None or match.group(2) not in units:
        raise ConfigError(f"{given} is not a {kind}: write it like {example!r}")
    try:  # with decimals, 16.97 GFLOP/s is exactly 16970000000 FLOP/s
        number = float(Decimal(match.group(1)) * Decimal(repr(units[match.group(2)])))
    except ArithmeticError:
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise ConfigError(f"{given} is not a {kind}: it must be finite and not negative, like {example!r}")
    if number > most:
        raise ConfigError(f"{given} is not a {kind}: it must be at most {limit}")
    return number


def parse_rate(value: object) -> float:
    """A link rate in bit/s from text like `50 Mbit/s`; raises ConfigError."""
    return _parse(value, RATE, "link rate", "50 Mbit/s", MOST_BPS, "1000 Tbit/s")


def parse_duration(value: object) -> float:
    """A time in seconds from text like `2 ms`; raises ConfigError."""
    return _parse(value, DURATION, "duration", "2 ms", MOST_SECONDS, "1e9 s")


def parse_bytes(value: object) -> int:
    """A size in bytes from text like `256 MiB`; raises ConfigError."""
    return round(_parse(value, BYTES, "memory size", "256 MiB", MOST_BYTES, "1024 TiB"))


def parse_bandwidth(value: object) -> float:
    """A memory or storage bandwidth in byte/s from text like `3 GB/s`; raises ConfigError."""
    return _parse(value, BANDWIDTH, "streaming rate", "3 GB/s", MOST_BYTES_PER_S, "1000 TB/s")


def parse_compute(value: object) -> float:
    """A compute rate in FLOP/s from text like `8 GFLOP/s`; raises ConfigError."""
    return _parse(value, COMPUTE, "compute rate", "8 GFLOP/s", MOST_FLOPS, "1e6 TFLOP/s")


def parse_fraction(value: object) -> float:
    """A share of one from text like `1 %` or `0.01`; raises ConfigError."""
    return _parse(value, FRACTION, "fraction", "1 %", 1.0, "100 %")


def parse_power(value: object) -> float:
    """A power in watts from text like `6 W`; raises ConfigError."""
    return _parse(value, POWER, "power", "6 W", MOST_WATTS, "1e6 W")


def parse_speed(value: object) -> float:
    """Tokens per second from text like `5 tok/s`; raises ConfigError."""
    return _parse(value, SPEED, "number of tokens per second", "5 tok/s", MOST_TIMES, "1e6 tok/s")


def parse_time_per_byte(value: object) -> float:
    """Seconds for one byte from text like `2 ns/B`; raises ConfigError."""
    return _parse(value, TIME_PER_BYTE, "time per byte", "2 ns/B", MOST_SECONDS, "1e9 s/B")


def parse_times(value: object) -> float:
    """How often something is done, from a number like `2`; raises ConfigError."""
    return _parse(value, {"": 1.0}, "number of times", "2", MOST_TIMES, "1e6")


def format_number(value: float) -> str:
    """A number as people write it, with four digits or all before the point: `0.2188`, `18,220`, never `1.822e+04`."""
    size = abs(value)
    if size >= 999.95:
        return f"{value:,.0f}"
    if size and size < LEAST_SHOWN:
        return f"<{LEAST_SHOWN:f}" if value > 0 else f"-<{LEAST_SHOWN:f}"
    decimals = 3 - math.floor(math.log10(size)) if size else 0
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".") if decimals > 0 else f"{value:.0f}"


def _format(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    factor, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{format_number(value / factor).replace(',', '')} {unit}"  # so that it can be parsed again


def format_rate(bps: float) -> str:
    """`50 Mbit/s` from 5e7."""
    return _format(bps, ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1, "bit/s")))


def format_bytes(size: float) -> str:
    """`256 MiB` from 268435456."""
    return _format(size, ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")))


def format_bandwidth(Bps: float) -> str:
    """`3 GB/s` from 3e9."""
    return _format(Bps, ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")))


def format_compute(flops: float) -> str:
    """`8 GFLOP/s` from 8e9."""
    return _format(flops, ((1e9, "GFLOP/s"), (1e6, "MFLOP/s"), (1e3, "kFLOP/s"), (1, "FLOP/s")))


def format_duration(seconds: float) -> str:
    """`2 ms` from 0.002."""
    return _format(seconds, ((1, "s"), (1e-3, "ms"), (1e-6, "us")))
