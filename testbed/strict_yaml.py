"""Reads YAML strictly: a mistake is an error, and no file can exhaust memory or time.

PyYAML lets the last of two equal keys win, turns `2024-01-01` into a date, and leaves `60e6` as text because YAML 1.1
wants `6.0e+7`. Here an equal key is an error, the date stays text, and `60e6` is a number. Anchors, aliases and merge
keys are allowed as long as their expansion stays small. Tags of other than plain values, numbers that no quantity
needs, deep nesting and unknown keys are errors. This module knows YAML and the wording of errors, but not what a file
means.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed.errors import ConfigError
from testbed.files import read_text

LARGEST_YAML = 2**20  # characters; a program that writes more can write JSON
DEEPEST = 40  # the most levels of nested mappings and lists
MOST_ALIASED = 100_000  # the most values of a file after its aliases are expanded
LONGEST_NUMBER = 60  # characters
LARGEST_INTEGER = 2**63 - 1
MOST_CHOICES = 40  # the most choices that an error lists

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_PLAIN = (*_NUMBERS, _MERGE, *(_TAG + kind for kind in ("null", "bool", "str", "seq", "map")))
_TOO_DEEP = f"mappings and lists are more than {DEEPEST} levels deep"
_UNWANTED = (f"{_TAG}timestamp", f"{_TAG}value")  # dates and the key `=` stay text
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")  # a number with an exponent in the form of YAML 1.2


# libyaml's parser is ten times as fast. The PyYAML of Debian and of the wheels has it.
class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A SafeLoader that refuses duplicate keys and oversized numbers, and leaves dates as text."""

    _depth = 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Refuse deep nesting; the loader calls this before each node, and libyaml's parser recurses in C."""
        self._depth += 1
        if self._depth > DEEPEST + 1:
            raise _problem(current_node, _TOO_DEEP)

    def ascend_resolver(self) -> None:
        """Leave a level; the loader calls this after each node."""
        self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE or not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node)
            if key in seen:
                raise _problem(key_node, f"the key {shown(key)} appears twice")
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping

    def construct_plain(self, node: Any) -> Any:
        """The value of a boolean or a number."""
        kind = node.tag.removeprefix(_TAG)
        if node.tag in _NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise _problem(node, f"{shown(node.value)} is no number that anything here needs")
        try:
            value = yaml.SafeLoader.yaml_constructors[node.tag](self, node)
        except (ValueError, KeyError, IndexError, OverflowError):
            raise _problem(node, f"{shown(node.value)} is tagged !!{kind}, but it is none") from None
        if type(value) is int and abs(value) > LARGEST_INTEGER:
            raise _problem(node, f"{shown(node.value)} is no number that anything here needs")
        return value


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _UNWANTED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+.0123456789"))
for _kind in ("bool", "int", "float"):
    _StrictLoader.add_constructor(_TAG + _kind, _StrictLoader.construct_plain)


def parse_yaml(text: str, origin: str) -> Any:
    """The value of a YAML document; raises ConfigError naming `origin` and the line."""
    if len(text) > LARGEST_YAML:
        raise ConfigError(f"{origin}: this is {len(text)} characters of YAML, and at most {LARGEST_YAML} are read")
    try:
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_bombs(node)
            return loader.construct_object(node, deep=True)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ConfigError(f"{origin}{line}: this is not the YAML we expect: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise ConfigError(f"{origin}: this is not YAML: {' '.join(str(error).split())}") from error


def _refuse_bombs(root: Any) -> None:
    """Raise for a tag of other than plain values, for deep nesting, and for aliases that expand to too much.

    The function counts the values of the document with all aliases and merge keys expanded, and visits each node once.
    """
    sizes: dict[int, tuple[int, int]] = {}  # node -> (values in it, levels in it)
    written = 0
    stack: list[tuple[Any, bool]] = [(root, False)]
    above: set[int] = set()
    while stack:
        node, done = stack.pop()
        inside = _children(node)
        if done:
            above.discard(id(node))
            below = [sizes[id(child)] for child in inside]
            sizes[id(node)] = 1 + sum(size for size, _ in below), 1 + max((levels for _, levels in below), default=0)
            if sizes[id(node)][0] > max(MOST_ALIASED, written):
                raise _problem(node, f"its aliases stand for over {MOST_ALIASED} values")
            continue
        if id(node) in above:
            raise _problem(node, "an alias stands for something that it is in itself")
        if id(node) in sizes:
            continue
        written += 1
        if node.tag not in _PLAIN:
            tag = node.tag.replace(_TAG, "!!")
            raise _problem(node, f"the tag {shown(tag)} is none that is used here: write plain values")
        above.add(id(node))
        stack.append((node, True))
        stack += ((child, False) for child in inside)
    if sizes[id(root)][1] > DEEPEST + 1:
        raise _problem(root, _TOO_DEEP)


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _problem(node: Any, text: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def read_mapping(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file, or of a JSON file of any size; raises ConfigError naming the file."""
    text = read_text(path)
    value = _json(text, str(path)) if len(text) > LARGEST_YAML else parse_yaml(text, str(path))
    return require_mapping(value, str(path), "the file")


def _json(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{origin}: this is {len(text)} characters and not JSON, and of YAML at most {LARGEST_YAML} are read"
        ) from error


def require_mapping(value: object, origin: str, where: str) -> dict[str, Any]:
    """A mapping as a new dict; raises ConfigError naming `origin` and `where` if `value` is none."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: {where} must be a mapping of keys to values, not {shown(value)}")
    return dict(value)


def refuse_unknown_keys(mapping: Mapping[Any, Any], known: Iterable[str], origin: str, where: str) -> None:
    """Raise ConfigError for the first unknown key, with the nearest known one."""
    choices = list(known)
    for key in mapping:
        if key not in choices:
            raise ConfigError(f"{origin}: {shown(key)} is not a key of {where}{suggest(key, choices)}")


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that is most like this one; None if none is similar."""
    near = difflib.get_close_matches(shown(word).strip("'"), list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def suggest(word: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest known word, or all of them if there are any."""
    choices = list(known)
    if not choices:
        return ""
    near = nearest(word, choices)
    if near is not None:
        return f"; did you mean {near!r}?"
    more = f" and {len(choices) - MOST_CHOICES} more" if len(choices) > MOST_CHOICES else ""
    return f"; choose from {', '.join(choices[:MOST_CHOICES])}{more}"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shown(value: object) -> str:
    """The text of a value in an error: short and on one line, however large the value is."""
    if value is None:
        return "nothing"
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python refuses to write an integer of over 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
