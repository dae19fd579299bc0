"""The device catalogue: the rates and sizes of named boards, each with its source.

This module reads the numbers from topologies/catalogue.yaml. It knows nothing of links or networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from testbed.errors import ConfigError
from testbed.strict_yaml import read_mapping, refuse_unknown_keys, require_mapping, shown
from testbed.topologies.finer import FINER_KEYS
from testbed.units import parse_bandwidth, parse_bytes, parse_compute

CATALOGUE_FILE = Path(__file__).parents[2] / "topologies" / "catalogue.yaml"

# The quantities of a device: its key in a file -> the parser of its value.
DEVICE_QUANTITIES: dict[str, Callable[[object], float]] = {
    "streaming": parse_bandwidth,
    "compute": parse_compute,
    "memory": parse_bytes,
    "storage": parse_bandwidth,
}

PROVENANCES = ("same-board", "other-board", "source", "default")
"""Where a value comes from: measured on this board with this engine, on another, found in a source, or a default."""


@dataclass(frozen=True)
class Board:
    """One named board: its quantities as text with units, and the source of each."""

    name: str
    title: str
    values: dict[str, Any]  # key of DEVICE_QUANTITIES or FINER_KEYS -> e.g. "5.5 GB/s"
    sources: dict[str, str]  # the same key -> where the value comes from
    provenances: dict[str, str]  # the same key -> one of PROVENANCES


@lru_cache(maxsize=1)
def boards() -> dict[str, Board]:
    """Every board of the catalogue, by its name; raises ConfigError if the catalogue is damaged."""
    origin = str(CATALOGUE_FILE)
    found: dict[str, Board] = {}
    for name, entry in read_mapping(CATALOGUE_FILE).items():
        fields = require_mapping(entry, origin, name)
        refuse_unknown_keys(fields, ["board", *DEVICE_QUANTITIES, *FINER_KEYS], origin, name)
        keys = [*DEVICE_QUANTITIES, *(key for key in FINER_KEYS if key in fields)]
        quantities = {key: require_mapping(fields.get(key), origin, f"{name}.{key}") for key in keys}
        for key, quantity in quantities.items():
            refuse_unknown_keys(quantity, ["value", "spread", "source", "provenance"], origin, f"{name}.{key}")
            if (given := quantity.setdefault("provenance", "source")) not in PROVENANCES:
                known = ", ".join(PROVENANCES)
                raise ConfigError(f"{origin}: {name}.{key}.provenance is {shown(given)}, but it must be one of {known}")
        found[name] = Board(
            name,
            str(fields["board"]),
            {key: quantity["value"] for key, quantity in quantities.items()},
            {key: str(quantity["source"]) for key, quantity in quantities.items()},
            {key: quantity["provenance"] for key, quantity in quantities.items()},
        )
    return found
