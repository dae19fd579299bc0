"""Reading one mapping of a topology file: keys that are missing or exclude each other, and typed values.

Every slip is a ConfigError of one sentence with the file, the key and the value. Knows wording and units, not
what a topology is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import shown

Parse = Callable[[object], float]


def refuse_missing(fields: Mapping[str, Any], keys: tuple[str, ...], origin: str, prefix: str, hint: str = "") -> None:
    """Raise for the first of `keys` that is not there."""
    for key in keys:
        if key not in fields:
            raise ConfigError(f"{origin}: the key {prefix + key!r} is missing{hint}")


def refuse_mixture(fields: Mapping[str, Any], both: str, each: tuple[str, str], origin: str, where: str) -> None:
    """Raise where one key for both directions stands beside a key for one of them."""
    for key in each:
        if both in fields and key in fields:
            raise ConfigError(f"{origin}: {where} has both {both} and {key}; give {both}, or {each[0]} and {each[1]}")


def parsed(value: object, parse: Parse, origin: str, where: str) -> float:
    """The value in SI units."""
    try:
        return parse(value)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {where}: {error}") from error


def positive(value: object, parse: Parse, origin: str, where: str) -> float:
    """The value in SI units, which must be more than zero."""
    number = parsed(value, parse, origin, where)
    if number <= 0:
        raise ConfigError(f"{origin}: {where} is {shown(value)}, but it must be more than zero")
    return number


def exact(value: float, render: Callable[[float], str], parse: Parse, unit: str) -> str:
    """`value` in a readable unit where that reads back as exactly the same number, else in the SI unit."""
    for text in (render(value), f"{value:.17g} {unit}".strip()):
        with suppress(ConfigError):  # rounded up, it may be more than is taken
            if parse(text) == value:
                return text
    return f"{value!r} {unit}".strip()
