"""Reads JSON strictly: a document that is not as expected is an error of one sentence.

msgspec reads the JSON (it refuses NaN and lone surrogates) and checks the types that a reader asks for. This module
knows JSON and the wording of errors, but not what a file means.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from testbed.errors import ConfigError
from testbed.files import LARGEST_BYTES, read_bytes
from testbed.strict_yaml import require_mapping, shown

T = TypeVar("T")


def read_object(path: str | Path, limit_bytes: int = LARGEST_BYTES) -> dict[str, Any]:
    """The object in a JSON file; raises ConfigError naming the file."""
    return parse_object(read_bytes(path, limit_bytes).removeprefix(codecs.BOM_UTF8), str(path))


def parse_object(content: bytes, origin: str) -> dict[str, Any]:
    """The object in the bytes of a JSON document; raises ConfigError naming `origin`."""
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{origin} is not JSON: {error}") from error
    except RecursionError:
        raise ConfigError(f"{origin} is not the JSON we expect: it is nested too deeply") from None
    return require_mapping(document, origin, "the file")


def checked(value: Any, kind: type[T], origin: str) -> T:
    """A value from JSON, converted to the type `kind`; raises ConfigError naming the key and its value."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        wrong, _, path = str(error).partition(" - at ")
        wrong = wrong[:1].lower() + wrong[1:].replace("`", "")
        if not path:
            raise ConfigError(f"{origin}: {wrong}") from error
        # msgspec writes `$.key[3].key`, and `[...]` for any key of a mapping.
        for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", path.partition("[...]")[0]):
            value = value[key] if key else value[int(index)]
        raise ConfigError(f"{origin}: {path.strip('`$.')} is {shown(value)}: {wrong}") from error
