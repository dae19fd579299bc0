"""Helpers that read one mapping of a topology file: missing keys, keys that exclude each other, typed values.

Each mistake in a file is a ConfigError of one sentence that names the file, the key and the value. This module does
not know what a topology is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import shown

Parse = Callable[[object], float]


def refuse_missing(fields: Mapping[str, Any], keys: tuple[str, ...], origin: str, prefix: str, hint: str = "") -> None:
    """Raise ConfigError for the first of `keys` that is missing; `hint` ends the sentence."""
    for key in keys:
        if key not in fields:
            raise ConfigError(f"{origin}: the key {prefix + key!r} is missing{hint}")


def refuse_mixture(fields: Mapping[str, Any], both: str, each: tuple[str, str], origin: str, where: str) -> None:
    """Raise ConfigError if the key for both directions and a key for one direction are both given."""
    for key in each:
        if both in fields and key in fields:
            raise ConfigError(f"{origin}: {where} has both {both} and {key}; give {both}, or {each[0]} and {each[1]}")


def parsed(value: object, parse: Parse, origin: str, where: str) -> float:
    """The value in SI units; raises ConfigError."""
    try:
        return parse(value)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {where}: {error}") from error


def positive(value: object, parse: Parse, origin: str, where: str) -> float:
    """The value in SI units; raises ConfigError unless it is more than zero."""
    number = parsed(value, parse, origin, where)
    if number <= 0:
        raise ConfigError(f"{origin}: {where} is {shown(value)}, but it must be more than zero")
    return number


def exact(value: float, render: Callable[[float], str], parse: Parse, unit: str) -> str:
    """The text of a value that parses back to exactly the same number: in a readable unit if possible, else in SI."""
    for text in (render(value), f"{value:.17g} {unit}".strip()):
        with suppress(ConfigError):  # a value rounded up may exceed the largest that `parse` accepts
            if parse(text) == value:
                return text
    return f"{value!r} {unit}".strip()


def rounded(value: float) -> float:
    """A drawn value with four significant digits, so that it is the same on every machine."""
    return float(f"{value:.4g}")
