"""The topology: devices, the links between them, and the source, which is the device where the prompt enters.

One YAML file describes a topology. The emulation, the simulation and plain Mininet all build their network from it.
This module needs only the standard library and PyYAML, because `mn` loads it with the system's Python. It does not
know what runs on a device or how the kernel shapes a link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from testbed.bundled import bundled
from testbed.device_model import PLAIN, DeviceModel
from testbed.errors import ConfigError
from testbed.strict_yaml import read_mapping, refuse_unknown_keys, require_mapping, shown, suggest
from testbed.topologies.catalogue import DEVICE_QUANTITIES, boards
from testbed.topologies.fields import exact, positive, refuse_missing
from testbed.topologies.finer import FINER_KEYS, MESSAGE_KEYS, finer_entry, read_finer
from testbed.topologies.interfaces import Interface, interfaces_of
from testbed.topologies.links import DOWN, UP, Cable, Hop, Link, cable_entry, link_entry, medium_entry, read_link
from testbed.topologies.names import refuse_bad_interfaces, refuse_shared_link_names
from testbed.topologies.routes import Routes, routes_between, through_medium
from testbed.topologies.shapes import (
    BACKHAUL,
    MEDIUM,
    MOST_DEVICES,
    RANDOM,
    SHAPE_KEYS,
    SHAPES,
    SWITCHED,
    WIFI,
    Clusters,
    Shape,
    backhaul_cables,
    medium_cable,
    mesh_cables,
    random_cables,
    read_clusters,
    ring_cables,
    switches_of,
)
from testbed.units import (
    format_bandwidth,
    format_bytes,
    format_compute,
    parse_bandwidth,
    parse_bytes,
    parse_compute,
)

__all__ = ["Cable", "Device", "Hop", "Link", "Topology", "describe", "list_bundled"]

SWITCH = "s1"  # the switch of a star, or the access point of a wifi; no device may have its name
AIR = "s1-air"  # the interface with the queue of a wifi

# Linux interface names hold 15 characters (IFNAMSIZ - 1); Mininet appends "-eth0" to the device's name.
MAX_NAME_LENGTH = 10
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9-]{{0,{MAX_NAME_LENGTH - 1}}}")

# What SATA 3 carries at most (6 Gbit/s, 8b/10b): a laptop's disk, if the file does not say.
DEFAULT_STORAGE = "600 MB/s"
_TOPOLOGY_KEYS = ("name", "shape", "source", "devices")
_DEVICE_KEYS = ("catalogue", *DEVICE_QUANTITIES, *FINER_KEYS, "link")


@dataclass(frozen=True)
class Device:
    """One device before any trace changes it; `memory_bytes` is its budget for weights and KV caches."""

    name: str
    streaming_Bps: float
    compute_flops: float
    memory_bytes: int
    storage_Bps: float
    link: Link | None  # to its switch; None in shapes whose links join devices directly
    catalogue: str | None = None
    model: DeviceModel = PLAIN  # its finer numbers


@dataclass(frozen=True)
class Topology:
    """Devices and the links between them; a device's position in `devices` is its index everywhere else."""

    name: str
    shape: Shape
    source: str
    devices: tuple[Device, ...]
    cables: tuple[Cable, ...] = ()  # all links except the devices' own links to their switches
    clusters: Clusters = ()  # of a two-tier network

    @classmethod
    def load(cls, path: str | Path) -> Topology:
        """The topology in a YAML file; raises ConfigError naming the file, the key and the value."""
        return cls.from_dict(read_mapping(Path(path)), str(path))

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], origin: str = "topology") -> Topology:
        """The topology that a mapping in the form of the YAML file describes; `origin` names it in errors."""
        fields = require_mapping(mapping, origin, "a topology")
        shape = fields.get("shape", "star")
        if not isinstance(shape, str) or shape not in SHAPES:
            raise ConfigError(f"{origin}: shape is {shown(shape)}, but only {', '.join(SHAPES)} can be built")
        refuse_unknown_keys(fields, (*_TOPOLOGY_KEYS, *SHAPE_KEYS[shape]), origin, f"a {shape} topology")
        refuse_missing(fields, ("source", "devices"), origin, "")
        entries = require_mapping(fields["devices"], origin, "devices")
        most = MOST_DEVICES[shape]
        if not 0 < len(entries) <= most:
            raise ConfigError(
                f"{origin}: devices has {len(entries)}, but a {shape} has at least one device and at most {most}"
            )
        devices = tuple(_device(name, entry, shape, origin) for name, entry in entries.items())
        if not isinstance(fields["source"], str) or fields["source"] not in entries:
            hint = suggest(fields["source"], entries)
            raise ConfigError(f"{origin}: source is {shown(fields['source'])}, which is none of the devices{hint}")
        name = fields.get("name", Path(origin).stem)
        if not isinstance(name, str):
            raise ConfigError(f"{origin}: name is {shown(name)}, but it must be text")
        cables, clusters = _cables(shape, fields, list(entries), origin)
        topology = cls(name, "mesh" if shape == RANDOM else shape, fields["source"], devices, cables, clusters)  # type: ignore[arg-type]
        refuse_shared_link_names(topology.links, cables, entries, origin)
        refuse_bad_interfaces(topology.interfaces.values(), origin)
        return topology

    def to_dict(self) -> dict[str, Any]:
        """The form of the YAML file, complete and exact: `from_dict` turns it into an equal topology."""
        whole: dict[str, Any] = {
            "name": self.name,
            "shape": self.shape,
            "source": self.source,
            "devices": {device.name: _device_entry(device) for device in self.devices},
        }
        if self.shape == "two-tier":
            whole["clusters"] = {name: list(members) for name, members in self.clusters}
            whole[BACKHAUL] = link_entry(self.cables[0].link)
        elif self.shape == WIFI:
            whole[MEDIUM] = medium_entry(self.cables[0].link)
        elif self.shape != "star":
            whole["links"] = [cable_entry(cable) for cable in self.cables]
        return whole

    @cached_property
    def links(self) -> tuple[Cable, ...]:
        """Every link: first the devices' own to their switches, which have the devices' names, then the others."""
        own = (
            Cable(device.name, (device.name, self.switch_of(device.name)), device.link)
            for device in self.devices
            if device.link is not None
        )
        return (*own, *self.cables)

    @property
    def switches(self) -> tuple[str, ...]:
        """The switches; none in shapes whose links join devices directly. That of a wifi is its access point."""
        return switches_of(self.clusters) if self.shape in (*SWITCHED, WIFI) else ()

    def switch_of(self, device: str) -> str:
        """The switch to which a device's own link leads."""
        numbers = [number for number, (_, members) in enumerate(self.clusters) if device in members]
        return self.switches[numbers[0] if numbers else 0]

    @cached_property
    def interfaces(self) -> dict[Hop, Interface]:
        """The interface through which each direction of each link leaves its node, as Mininet names it.

        A wifi has one interface, whose queue all stations share.
        """
        if self.shape == WIFI:
            return {(MEDIUM, UP): (SWITCH, AIR)}
        return interfaces_of([device.name for device in self.devices], self.switches, self.links)

    @cached_property
    def routes(self) -> Routes | None:
        """The directed links between every two devices; None for a star, where a route is one uplink, one downlink."""
        if self.shape == "star":
            return None
        names = [device.name for device in self.devices]
        return through_medium(names, MEDIUM) if self.shape == WIFI else routes_between(names, self.links)

    def route(self, source: str, target: str) -> tuple[Hop, ...]:
        """The directed links from one device to another, in order."""
        return ((source, UP), (target, DOWN)) if self.routes is None else self.routes[source, target]

    def device(self, name: str) -> Device:
        """One device by name; raises ConfigError for an unknown one."""
        for device in self.devices:
            if device.name == name:
                return device
        known = [device.name for device in self.devices]
        raise ConfigError(f"topology {self.name}: there is no device {name!r}{suggest(name, known)}")


# --- bundled files and what the command line shows --------------------------------------------------------


def list_bundled() -> list[dict[str, Any]]:
    """A row for each topology file of this package: name, path, shape, source, devices, memory_bytes."""
    rows = []
    for path in bundled("topology").values():
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


def describe(topology: Topology) -> dict[str, Any]:
    """A description in SI units, ready for JSON, with totals and with the sources of the catalogue's values."""
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
        }
        if device.link is not None:
            row |= {name: getattr(device.link, name) for name in ("up_bps", "down_bps", "up_delay_s", "down_delay_s")}
        if device.model != PLAIN:
            row["finer"] = finer_entry(device.model)
        if device.catalogue is not None:
            row["value_sources"] = dict(boards()[device.catalogue].sources)
        devices.append(row)
    return {
        "name": topology.name,
        "shape": topology.shape,
        "source": topology.source,
        "devices": devices,
        "links": [{"name": link.name, "ends": list(link.ends)} | asdict(link.link) for link in topology.links],
        "memory_bytes": sum(device.memory_bytes for device in topology.devices),
        "streaming_Bps": sum(device.streaming_Bps for device in topology.devices),
    }


# --- from YAML --------------------------------------------------------------------------------------------


def _cables(
    shape: str, fields: Mapping[str, Any], devices: list[str], origin: str
) -> tuple[tuple[Cable, ...], Clusters]:
    """The links that the keys of the shape describe, without the devices' own, and the clusters."""
    if shape == "star":
        return (), ()
    if shape == WIFI:
        refuse_missing(fields, (MEDIUM,), origin, "")
        return (medium_cable(fields[MEDIUM], SWITCH, origin),), ()
    if shape == "two-tier":
        refuse_missing(fields, ("clusters", BACKHAUL), origin, "")
        clusters = read_clusters(fields["clusters"], devices, origin)
        return backhaul_cables(clusters, fields[BACKHAUL], origin), clusters
    if shape == RANDOM:
        refuse_missing(fields, ("links",), origin, "")
        return random_cables(fields["links"], devices, origin), ()
    return (ring_cables if shape == "ring" else mesh_cables)(fields, devices, origin), ()


def _device(name: object, entry: object, shape: str, origin: str) -> Device:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == SWITCH:
        raise ConfigError(
            f"{origin}: {shown(name)} cannot be a device's name: use at most {MAX_NAME_LENGTH} letters, digits "
            f"and '-', the first a letter, and not {SWITCH!r}"
        )
    where = f"devices.{name}"
    fields = require_mapping(entry, origin, where)
    refuse_unknown_keys(fields, _DEVICE_KEYS, origin, where)
    catalogue, own = fields.get("catalogue"), set(fields)
    if catalogue is not None:
        if not isinstance(catalogue, str) or catalogue not in boards():
            hint = suggest(catalogue, boards())
            raise ConfigError(f"{origin}: {where}.catalogue is {shown(catalogue)}, which the catalogue lacks{hint}")
        fields = {**boards()[catalogue].values, **fields}
    if shape not in SWITCHED and "link" in fields:
        instead = "all share the medium" if shape == WIFI else "links join devices"
        raise ConfigError(f"{origin}: {where} has a link, but in a {shape} topology {instead}: say it beside devices")
    fields = {"storage": DEFAULT_STORAGE} | fields
    refuse_missing(fields, (*DEVICE_QUANTITIES, *(["link"] if shape in SWITCHED else [])), origin, f"{where}.")
    for key in MESSAGE_KEYS:
        if shape not in SWITCHED and key in fields:
            raise ConfigError(f"{origin}: {where}.{key} needs a link of the device's own, which a {shape} lacks")
    values = {key: positive(fields[key], parse, origin, f"{where}.{key}") for key, parse in DEVICE_QUANTITIES.items()}
    rates, board_rates = (values["streaming"], values["compute"]), None
    if catalogue is not None:
        board = boards()[catalogue].values
        board_rates = parse_bandwidth(board["streaming"]), parse_compute(board["compute"])
    return Device(
        name=name,
        streaming_Bps=values["streaming"],
        compute_flops=values["compute"],
        memory_bytes=int(values["memory"]),
        storage_Bps=values["storage"],
        link=read_link(fields["link"], origin, f"{where}.link") if shape in SWITCHED else None,
        catalogue=catalogue,
        model=read_finer(fields, rates, board_rates, own, origin, where),
    )


def _device_entry(device: Device) -> dict[str, Any]:
    """The form of a device in the YAML file."""
    entry: dict[str, Any] = {} if device.catalogue is None else {"catalogue": device.catalogue}
    entry |= {
        "streaming": exact(device.streaming_Bps, format_bandwidth, parse_bandwidth, "B/s"),
        "compute": exact(device.compute_flops, format_compute, parse_compute, "FLOP/s"),
        "memory": exact(device.memory_bytes, format_bytes, parse_bytes, "B"),
        "storage": exact(device.storage_Bps, format_bandwidth, parse_bandwidth, "B/s"),
    }
    entry |= finer_entry(device.model)
    return entry if device.link is None else entry | {"link": link_entry(device.link)}
