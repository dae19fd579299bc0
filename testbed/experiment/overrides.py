"""Overrides of the form `key=value` for the nested mapping of a file: dotted keys and YAML values.

This module knows mappings and lists, but not the keys of an experiment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import parse_yaml, shown, suggest

SECTIONS = 2  # the levels of missing mappings that an override may add, like `partition` or `topology.backhaul`
_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class Override:
    """One override `key=value` in parts; `text` is what the user wrote, in a form that is safe to print."""

    key: tuple[str, ...]
    value: Any
    text: str

    def touches(self, where: tuple[str, ...]) -> bool:
        """Whether this override sets the value at `where`, a part of it, or a mapping that contains it."""
        shorter = min(len(self.key), len(where))
        return self.key[:shorter] == where[:shorter]


def parse_override(text: str) -> Override:
    """The override in a text like `model.seed=3`; raises ConfigError."""
    key, equals, value = text.partition("=")
    printed = text if len(text) <= _LONGEST_SHOWN and text.isprintable() else shown(text)
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise ConfigError(f"--set {printed}: write it like key=value, for instance tokens=16 or model.seed=3")
    return Override(parts, parse_yaml(value, f"--set {printed}"), printed)


def apply_override(mapping: dict[str, Any], override: Override) -> None:
    """Set the value in place and add missing sections; a number indexes a list. Raises ConfigError."""
    inside: Any = mapping
    for depth, part in enumerate(override.key):
        where = ".".join(override.key[:depth])
        last = depth == len(override.key) - 1
        if isinstance(inside, list):
            if not part.isdecimal() or len(part) > 9 or int(part) >= len(inside):
                entries = f"{len(inside)} entries, numbered from 0"
                raise ConfigError(f"--set {override.text}: {where} has {entries}, and none called {shown(part)}")
            index: Any = int(part)
        elif isinstance(inside, dict):
            index = part
            if not last and inside.get(part) is None:
                if depth >= SECTIONS:
                    hint = suggest(part, map(str, inside))
                    raise ConfigError(f"--set {override.text}: {where} has no {shown(part)} to set this in{hint}")
                inside[part] = {}
        else:
            raise ConfigError(f"--set {override.text}: {where} is {shown(inside)}, which has no keys inside")
        if last:
            inside[index] = override.value
        else:
            inside = inside[index]
