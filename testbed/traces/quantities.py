"""The quantities that a trace can change: their units, their limits, and the text of their values.

`QUANTITIES` is the one table for the whole package. This module knows neither file formats nor series.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from testbed import units
from testbed.errors import ConfigError
from testbed.strict_yaml import shown

_TARGET = re.compile(r"(link|device)/[^\s,/\"'#]{1,100}")


@dataclass(frozen=True)
class Quantity:
    """One quantity of a link or a device that a trace can change."""

    parse: Callable[[object], float]  # typed text -> SI value
    show: Callable[[float], str]  # SI value -> text for people, rounded
    factors: Mapping[str, float]  # unit -> SI value of 1 unit
    unit_order: tuple[str, ...]  # the units that the writer tries in this order; the last one always works
    zero_allowed: bool = True  # 0 bit/s is an outage and 0 bytes a full device, but a device must compute
    most: float = math.inf


def _show_fraction(value: float) -> str:
    return f"{value * 100:.4g} %"


def _parse_switch(value: object) -> float:
    text = str(value).strip()
    if text not in _SWITCH:
        raise ConfigError(f"{shown(text)} is neither on nor off: write on or off, or 1 or 0")
    return _SWITCH[text]


_SWITCH = {"on": 1.0, "off": 0.0, "1": 1.0, "0": 0.0}

_RATE = Quantity(
    units.parse_rate, units.format_rate, units.RATE, ("Gbit/s", "Mbit/s", "kbit/s", "bit/s"), most=units.MOST_BPS
)
_DELAY = Quantity(
    units.parse_duration, units.format_duration, units.DURATION, ("s", "ms", "us", "s"), most=units.MOST_SECONDS
)
_LOSS = Quantity(units.parse_fraction, _show_fraction, units.FRACTION, ("",), most=1.0)
_MEMORY = Quantity(
    units.parse_bytes, units.format_bytes, units.BYTES, ("GiB", "MiB", "KiB", "B"), most=units.MOST_BYTES
)
_COMPUTE = Quantity(
    units.parse_compute,
    units.format_compute,
    units.COMPUTE,
    ("TFLOP/s", "GFLOP/s", "MFLOP/s", "FLOP/s"),
    zero_allowed=False,
    most=units.MOST_FLOPS,
)
_STREAMING = Quantity(
    units.parse_bandwidth,
    units.format_bandwidth,
    units.BANDWIDTH,
    ("GB/s", "MB/s", "kB/s", "B/s"),
    zero_allowed=False,
    most=units.MOST_BYTES_PER_S,
)
_ONOFF = Quantity(_parse_switch, lambda value: "on" if value else "off", units.FRACTION, ("",), most=1.0)

KILL, RESTART = "kill", "restart"
STRIKES = (KILL, RESTART)  # quantities of a device that act at their moment and hold no value

QUANTITIES: Mapping[str, Mapping[str, Quantity]] = {
    "link": {"up": _RATE, "down": _RATE, "up_delay": _DELAY, "down_delay": _DELAY, "loss": _LOSS},
    "device": {
        "memory": _MEMORY,
        "compute": _COMPUTE,
        "streaming": _STREAMING,
        "pause": _ONOFF,
        KILL: _ONOFF,
        RESTART: _ONOFF,
    },
}
# The words that mean both directions of a link in a file.
PAIRS: Mapping[str, tuple[str, str]] = {"rate": ("up", "down"), "delay": ("up_delay", "down_delay")}
RATES = PAIRS["rate"]
DIRECTIONS: Mapping[str, tuple[str, ...]] = {"up": ("up",), "down": ("down",), "both": RATES}


@lru_cache(maxsize=1024)
def kind_of(target: str) -> str:
    """`link` or `device`; raises ConfigError if the target is neither `link/NAME` nor `device/NAME`."""
    match = _TARGET.fullmatch(target)
    if match is None or not target.isprintable():
        raise ConfigError(f"{shown(target)} is not a target: write link/NAME or device/NAME")
    return match.group(1)


def quantity_of(target: str, name: str) -> Quantity:
    """The table's entry for a quantity of a target; raises ConfigError that lists the known ones."""
    known = QUANTITIES[kind_of(target)]
    if name not in known:
        raise ConfigError(f"{target} has no quantity {shown(name)}: it has {', '.join(known)}")
    return known[name]


@lru_cache(maxsize=1024)
def file_quantities(target: str, name: str) -> tuple[str, ...]:
    """The quantities that a word in a file means: `rate` and `delay` of a link mean both directions."""
    kind = kind_of(target)
    if kind == "link" and name in PAIRS:
        return PAIRS[name]
    known = QUANTITIES[kind]
    if name not in known:
        words = [*PAIRS, *known] if kind == "link" else [*known]
        raise ConfigError(f"{target} has no quantity {shown(name)}: it has {', '.join(words)}")
    return (name,)


def recorded_quantities(target: str, direction: str) -> tuple[str, ...]:
    """The quantities that a recorded bandwidth trace drives; raises ConfigError for a bad target or direction."""
    if not isinstance(target, str) or kind_of(target) != "link":
        raise ConfigError(f"a recorded bandwidth trace cannot drive {shown(target)}: its target must be link/DEVICE")
    if not isinstance(direction, str) or direction not in DIRECTIONS:
        raise ConfigError(f"{shown(direction)} is not a direction of a link: write up, down or both")
    return DIRECTIONS[direction]


def checked(target: str, name: str, value: float) -> float:
    """The SI value as a trace stores it (memory in whole bytes); raises ConfigError if it is out of range."""
    quantity = quantity_of(target, name)
    if not math.isfinite(value) or value < 0 or value > quantity.most:
        limit = "" if math.isinf(quantity.most) else f" and at most {quantity.most:g}"
        raise ConfigError(f"{name} of {target} cannot be {value:g}: it must be finite, not negative{limit}")
    if name == "pause" and value not in (0, 1):
        raise ConfigError(f"pause of {target} cannot be {value:g}: it is 1 (paused) or 0")
    if name in STRIKES and value != 1:
        raise ConfigError(f"{name} of {target} cannot be {value:g}: it is 1, since it happens at a moment")
    if value == 0 and not quantity.zero_allowed:
        raise ConfigError(f"{name} of {target} cannot be 0: a device that stops for good cannot be emulated")
    return float(round(value)) if name == "memory" else float(value)


def number_text(value: float) -> str:
    """The shortest text that parses back to exactly this number: `40`, `0.25`, `1e-07`."""
    text = repr(float(value))
    return text.removesuffix(".0")


def exact_text(target: str, name: str, value: float) -> str:
    """Text with a unit that parses back to exactly `value`, in the largest unit in which it is short."""
    quantity = quantity_of(target, name)
    for unit in quantity.unit_order:
        number = value / quantity.factors[unit]
        text = f"{number_text(number)} {unit}".strip()
        if number >= 1 and len(number_text(number)) <= 8 and quantity.parse(text) == value:
            return text
    return f"{number_text(value)} {quantity.unit_order[-1]}".strip()
