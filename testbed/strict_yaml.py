"""Reading YAML so that a slip of the pen is an error, not a surprise.

PyYAML lets the last of two equal keys win, turns `2024-01-01` into a date and leaves `60e6` as text (YAML 1.1 wants
`6.0e+7`); here the first is refused, the second stays text and the third is a number. Unknown keys are refused with
the nearest known one. This module knows YAML and wording; it does not know what any file means.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from testbed.errors import ConfigError
from testbed.files import read_text

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_FLOAT = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")  # a number with an exponent as YAML 1.2 has it


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and leaves dates as text."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE or not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node)
            if key in seen:
                problem = f"the key {key!r} appears twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+.0123456789"))


def parse_yaml(text: str, origin: str) -> Any:
    """The value of one YAML document; raises ConfigError naming `origin` and the line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ConfigError(f"{origin}{line}: this is not the YAML we expect: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{origin}: this is not YAML: {' '.join(str(error).split())}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file; raises ConfigError naming the file."""
    return require_mapping(parse_yaml(read_text(path), str(path)), str(path), "the file")


def require_mapping(value: object, origin: str, where: str) -> dict[str, Any]:
    """`value` as a new dict if it is a mapping; else a ConfigError naming `origin` and `where`."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{origin}: {where} must be a mapping of keys to values, not {shown(value)}")
    return dict(value)


def refuse_unknown_keys(mapping: Mapping[Any, Any], known: Iterable[str], origin: str, where: str) -> None:
    """Raise a ConfigError for the first key that is not known, suggesting the nearest that is."""
    choices = list(known)
    for key in mapping:
        if key not in choices:
            raise ConfigError(f"{origin}: {key!r} is not a key of {where}{suggest(key, choices)}")


def suggest(word: object, known: Iterable[str]) -> str:
    """The end of a sentence about a wrong word: the nearest known one, or all of them."""
    choices = list(known)
    near = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from {', '.join(choices)}"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shown(value: object) -> str:
    """`value` as an error message shows it: short, on one line, however large or deeply shared it is."""
    if value is None:
        return "nothing"
    try:
        text = _REPR.repr(value)
    except ValueError:  # Python refuses to write an integer of over 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
