"""The topology: devices, their access links, and which device the prompt enters at.

One YAML file describes it; the same file gives the emulated network, the simulated one and a plain Mininet
`Topo`. This module needs the standard library and PyYAML only, because `mn` loads it with the system's Python.
It does not know what runs on a device or how a link is shaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from testbed.errors import ConfigError
from testbed.strict_yaml import read_mapping, refuse_unknown_keys, require_mapping, shown, suggest
from testbed.units import (
    format_bandwidth,
    format_bytes,
    format_compute,
    format_duration,
    format_rate,
    parse_bandwidth,
    parse_bytes,
    parse_compute,
    parse_duration,
    parse_rate,
)
from topologies.catalogue import CATALOGUE_FILE, DEVICE_QUANTITIES, boards

Shape = Literal["star"]
SHAPES: tuple[str, ...] = get_args(Shape)
SWITCH = "s1"  # the star's centre; no device may have its name

# Linux interface names hold 15 characters (IFNAMSIZ - 1); Mininet appends "-eth0" to the device's name.
MAX_NAME_LENGTH = 10
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9-]{{0,{MAX_NAME_LENGTH - 1}}}")

_TOPOLOGY_KEYS = ("name", "shape", "source", "devices")
_DEVICE_KEYS = ("catalogue", *DEVICE_QUANTITIES, "link")
_LINK_KEYS = ("rate", "up", "down", "delay", "delay_up", "delay_down")
BUNDLED_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Link:
    """A device's access link to the switch. Path i->j takes up_delay_s(i) + down_delay_s(j)."""

    up_bps: float
    down_bps: float
    up_delay_s: float
    down_delay_s: float


@dataclass(frozen=True)
class Device:
    """One machine before any trace changes it. `memory_bytes` is the budget for weights and KV caches."""

    name: str
    streaming_Bps: float
    compute_flops: float
    memory_bytes: int
    storage_Bps: float
    link: Link
    catalogue: str | None = None


@dataclass(frozen=True)
class Topology:
    """Devices around one switch; their order is their index everywhere else."""

    name: str
    shape: Shape
    source: str
    devices: tuple[Device, ...]

    @classmethod
    def load(cls, path: str | Path) -> Topology:
        """The topology in a YAML file; raises ConfigError naming the file, the key and the value."""
        return cls.from_dict(read_mapping(Path(path)), str(path))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], origin: str = "topology") -> Topology:
        """The topology that `mapping` (the YAML's form) describes; `origin` names it in errors."""
        fields = require_mapping(mapping, origin, "a topology")
        refuse_unknown_keys(fields, _TOPOLOGY_KEYS, origin, "a topology")
        _refuse_missing(fields, ("source", "devices"), origin, "")
        shape = fields.get("shape", "star")
        if shape not in SHAPES:
            raise ConfigError(f"{origin}: shape is {shown(shape)}, but only {', '.join(SHAPES)} can be built")
        entries = require_mapping(fields["devices"], origin, "devices")
        if not entries:
            raise ConfigError(f"{origin}: devices is empty, but a topology needs at least one device")
        devices = tuple(_device(name, entry, origin) for name, entry in entries.items())
        if not isinstance(fields["source"], str) or fields["source"] not in entries:
            hint = suggest(fields["source"], entries)
            raise ConfigError(f"{origin}: source is {shown(fields['source'])}, which is none of the devices{hint}")
        name = fields.get("name", Path(origin).stem)
        if not isinstance(name, str):
            raise ConfigError(f"{origin}: name is {shown(name)}, but it must be text")
        return cls(name=name, shape="star", source=fields["source"], devices=devices)

    def to_dict(self) -> dict[str, Any]:
        """The same form as the YAML, complete and exact: `from_dict` gives an equal topology."""
        return {
            "name": self.name,
            "shape": self.shape,
            "source": self.source,
            "devices": {device.name: _device_entry(device) for device in self.devices},
        }

    def device(self, name: str) -> Device:
        """One device by name; raises ConfigError for an unknown one."""
        for device in self.devices:
            if device.name == name:
                return device
        known = [device.name for device in self.devices]
        raise ConfigError(f"topology {self.name}: there is no device {name!r}{suggest(name, known)}")


# --- bundled files and what the command line shows --------------------------------------------------------


def list_bundled() -> list[dict[str, Any]]:
    """One row for each topology file of this package: name, path, shape, source, devices, memory_bytes."""
    rows = []
    for path in sorted(BUNDLED_FOLDER.glob("*.yaml")):
        if path != CATALOGUE_FILE:
            topology = Topology.load(path)
            rows.append(
                {
                    "name": topology.name,
                    "path": str(path),
                    "shape": topology.shape,
                    "source": topology.source,
                    "devices": len(topology.devices),
                    "memory_bytes": sum(device.memory_bytes for device in topology.devices),
                }
            )
    return rows


def find_topology(name_or_path: str) -> Path:
    """The file meant by a path or by a bundled topology's name; raises ConfigError."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    bundled = {file.stem: file for file in BUNDLED_FOLDER.glob("*.yaml") if file != CATALOGUE_FILE}
    if name_or_path in bundled:
        return bundled[name_or_path]
    hint = suggest(name_or_path, sorted(bundled))
    raise ConfigError(f"{name_or_path}: there is no such topology file, nor a bundled one of that name{hint}")


def describe(topology: Topology) -> dict[str, Any]:
    """A JSON-able description in SI units, with totals and, for catalogue devices, the values' sources."""
    devices = []
    for device in topology.devices:
        row: dict[str, Any] = {
            "name": device.name,
            "source": device.name == topology.source,
            "catalogue": device.catalogue,
            "streaming_Bps": device.streaming_Bps,
            "compute_flops": device.compute_flops,
            "memory_bytes": device.memory_bytes,
            "storage_Bps": device.storage_Bps,
            "up_bps": device.link.up_bps,
            "down_bps": device.link.down_bps,
            "up_delay_s": device.link.up_delay_s,
            "down_delay_s": device.link.down_delay_s,
        }
        if device.catalogue is not None:
            row["value_sources"] = dict(boards()[device.catalogue].sources)
        devices.append(row)
    return {
        "name": topology.name,
        "shape": topology.shape,
        "source": topology.source,
        "devices": devices,
        "memory_bytes": sum(device.memory_bytes for device in topology.devices),
        "streaming_Bps": sum(device.streaming_Bps for device in topology.devices),
    }


# --- from YAML --------------------------------------------------------------------------------------------


def _device(name: object, entry: object, origin: str) -> Device:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == SWITCH:
        raise ConfigError(
            f"{origin}: {shown(name)} cannot be a device's name: use at most {MAX_NAME_LENGTH} letters, digits "
            f"and '-', the first a letter, and not {SWITCH!r}"
        )
    where = f"devices.{name}"
    fields = require_mapping(entry, origin, where)
    refuse_unknown_keys(fields, _DEVICE_KEYS, origin, where)
    catalogue = fields.get("catalogue")
    if catalogue is not None:
        if not isinstance(catalogue, str) or catalogue not in boards():
            hint = suggest(catalogue, boards())
            raise ConfigError(f"{origin}: {where}.catalogue is {shown(catalogue)}, which the catalogue lacks{hint}")
        fields = {**boards()[catalogue].values, **fields}
    _refuse_missing(fields, (*DEVICE_QUANTITIES, "link"), origin, f"{where}.")
    values = {key: _positive(fields[key], parse, origin, f"{where}.{key}") for key, parse in DEVICE_QUANTITIES.items()}
    return Device(
        name=name,
        streaming_Bps=values["streaming"],
        compute_flops=values["compute"],
        memory_bytes=int(values["memory"]),
        storage_Bps=values["storage"],
        link=_link(fields["link"], origin, f"{where}.link"),
        catalogue=catalogue,
    )


def _link(entry: object, origin: str, where: str) -> Link:
    fields = require_mapping(entry, origin, where)
    refuse_unknown_keys(fields, _LINK_KEYS, origin, where)
    _refuse_mixture(fields, "rate", ("up", "down"), origin, where)
    _refuse_mixture(fields, "delay", ("delay_up", "delay_down"), origin, where)
    if "rate" not in fields:
        _refuse_missing(fields, ("up", "down"), origin, f"{where}.", " (or give rate for both directions)")
    if ("delay_up" in fields) != ("delay_down" in fields):
        _refuse_missing(fields, ("delay_up", "delay_down"), origin, f"{where}.", " (or give delay for both directions)")

    def rate(key: str) -> float:
        key = "rate" if "rate" in fields else key
        return _positive(fields[key], parse_rate, origin, f"{where}.{key}")

    def delay(key: str) -> float:
        key = "delay" if "delay" in fields else key
        return _parsed(fields[key], parse_duration, origin, f"{where}.{key}") if key in fields else 0.0

    return Link(rate("up"), rate("down"), delay("delay_up"), delay("delay_down"))


def _refuse_missing(fields: Mapping[str, Any], keys: tuple[str, ...], origin: str, prefix: str, hint: str = "") -> None:
    for key in keys:
        if key not in fields:
            raise ConfigError(f"{origin}: the key {prefix + key!r} is missing{hint}")


def _refuse_mixture(fields: Mapping[str, Any], both: str, each: tuple[str, str], origin: str, where: str) -> None:
    for key in each:
        if both in fields and key in fields:
            raise ConfigError(f"{origin}: {where} has both {both} and {key}; give {both}, or {each[0]} and {each[1]}")


def _parsed(value: object, parse: Callable[[object], float], origin: str, where: str) -> float:
    try:
        return parse(value)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {where}: {error}") from error


def _positive(value: object, parse: Callable[[object], float], origin: str, where: str) -> float:
    number = _parsed(value, parse, origin, where)
    if number <= 0:
        raise ConfigError(f"{origin}: {where} is {shown(value)}, but it must be more than zero")
    return number


# --- to YAML's form ---------------------------------------------------------------------------------------


def _device_entry(device: Device) -> dict[str, Any]:
    link = device.link
    entry: dict[str, Any] = {} if device.catalogue is None else {"catalogue": device.catalogue}
    return entry | {
        "streaming": _exact(device.streaming_Bps, format_bandwidth, parse_bandwidth, "B/s"),
        "compute": _exact(device.compute_flops, format_compute, parse_compute, "FLOP/s"),
        "memory": _exact(device.memory_bytes, format_bytes, parse_bytes, "B"),
        "storage": _exact(device.storage_Bps, format_bandwidth, parse_bandwidth, "B/s"),
        "link": {
            "up": _exact(link.up_bps, format_rate, parse_rate, "bit/s"),
            "down": _exact(link.down_bps, format_rate, parse_rate, "bit/s"),
            "delay_up": _exact(link.up_delay_s, format_duration, parse_duration, "s"),
            "delay_down": _exact(link.down_delay_s, format_duration, parse_duration, "s"),
        },
    }


def _exact(value: float, render: Callable[[float], str], parse: Callable[[object], float], unit: str) -> str:
    """`value` in a readable unit where that reads back as exactly the same number, else in the SI unit."""
    text = render(value)
    return text if parse(text) == value else f"{value!r} {unit}"
