"""The links that a shape has in addition to the devices' own: a backhaul, a ring, a mesh, or a random mesh.

A star has no such links. Each function reads the keys of its shape from a topology file and returns the links; a
mistake in the file is a ConfigError of one sentence. This module knows devices only by their names.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, get_args

from testbed.errors import ConfigError
from testbed.strict_yaml import refuse_unknown_keys, require_mapping, shown
from testbed.topologies.fields import Parse, parsed, refuse_missing, rounded
from testbed.topologies.links import WORD, Cable, Link, is_word, read_link, read_listed
from testbed.topologies.names import named
from testbed.topologies.routes import next_cables
from testbed.units import parse_duration, parse_rate

Shape = Literal["star", "two-tier", "ring", "mesh", "wifi"]
RANDOM = "random"  # in files only: a drawn topology is a mesh
SHAPES: tuple[str, ...] = (*get_args(Shape), RANDOM)
SHAPE_KEYS: Mapping[str, tuple[str, ...]] = {
    "star": (), "two-tier": ("clusters", "backhaul"), "ring": ("link", "links"), "mesh": ("link", "links"),
    "wifi": ("medium",), RANDOM: ("links",),
}  # fmt: skip
SWITCHED = ("star", "two-tier")  # shapes in which each device has one link, to a switch
BACKHAUL = "backhaul"
WIFI, MEDIUM = "wifi", "medium"  # all stations share one medium, the link of that name
MOST_DEVICES: Mapping[str, int] = {"star": 1000, "two-tier": 400, "ring": 128, "mesh": 128, WIFI: 128, RANDOM: 128}
"""Up to these numbers, the routes between all pairs are found within two seconds."""
LEAST_RING = 3  # with two devices, both links would join the same pair

Clusters = tuple[tuple[str, tuple[str, ...]], ...]  # (name, its devices)


def switches_of(clusters: Clusters) -> tuple[str, ...]:
    """s1, s2, …: a switch for each cluster (a star has one), and a central one if there are more than two clusters."""
    count = max(1, len(clusters))
    return tuple(f"s{number + 1}" for number in range(count + (count > 2)))


def read_clusters(entry: object, devices: Sequence[str], origin: str) -> Clusters:
    """The clusters of devices that share a switch; ConfigError unless there are two and each device is in one."""
    fields = require_mapping(entry, origin, "clusters")
    if len(fields) < 2:
        raise ConfigError(f"{origin}: clusters has {len(fields)}, but a backhaul joins at least two clusters")
    seen: dict[str, str] = {}
    for name, members in fields.items():
        if not is_word(name):
            raise ConfigError(f"{origin}: clusters has {shown(name)}, but a cluster's name must be {WORD}")
        if not isinstance(members, list) or not members:
            raise ConfigError(f"{origin}: clusters.{name} is {shown(members)}, but it must be a list of devices")
        for member in members:
            if not isinstance(member, str) or member not in devices:
                raise ConfigError(f"{origin}: clusters.{name} has {shown(member)}, which is none of the devices")
            if member in seen:
                raise ConfigError(f"{origin}: device {member} is in two clusters, {seen[member]} and {name}")
            seen[member] = name
    for device in devices:
        if device not in seen:
            raise ConfigError(f"{origin}: device {device} is in no cluster; add it to one of {', '.join(fields)}")
    clusters = tuple((name, tuple(members)) for name, members in fields.items())
    taken = {*switches_of(clusters), BACKHAUL, *(f"{BACKHAUL}-{name}" for name, _ in clusters)}
    for device in devices:
        if device in taken:
            raise ConfigError(f"{origin}: {device!r} cannot be a device's name here: a switch or backhaul has it")
    return clusters


def backhaul_cables(clusters: Clusters, entry: object, origin: str) -> tuple[Cable, ...]:
    """One link between the switches of two clusters; with more clusters, one from each to the central switch."""
    link, switches = read_link(entry, origin, BACKHAUL), switches_of(clusters)
    if len(clusters) == 2:
        return (Cable(BACKHAUL, (switches[0], switches[1]), link),)
    named = zip(clusters, switches, strict=False)
    return tuple(Cable(f"{BACKHAUL}-{name}", (switch, switches[-1]), link) for (name, _), switch in named)


def ring_cables(fields: Mapping[str, Any], devices: list[str], origin: str) -> tuple[Cable, ...]:
    """Links from each device to the next, and from the last to the first.

    A link has the values of its entry in `links`, or else those of `link`.
    """
    if len(devices) < LEAST_RING:
        raise ConfigError(f"{origin}: a ring of {len(devices)} is none: it needs at least {LEAST_RING} devices")
    default = _default(fields, origin)
    listed = {frozenset(cable.ends): cable for cable in _listed(fields.get("links", []), devices, default, origin)}
    cables = []
    for one, other in zip(devices, [*devices[1:], devices[0]], strict=True):
        cable = listed.pop(frozenset((one, other)), None)
        if cable is None and default is None:
            raise ConfigError(f"{origin}: the link {one}-{other} is not described: give link, or an entry of links")
        cables.append(cable or Cable("", (one, other), default))  # type: ignore[arg-type]
    for cable in listed.values():
        raise ConfigError(f"{origin}: links has {'-'.join(cable.ends)}, but its ends are not neighbours in the ring")
    return named(cables, devices)


def mesh_cables(fields: Mapping[str, Any], devices: list[str], origin: str) -> tuple[Cable, ...]:
    """The links of the list `links`; without it, a link with the values of `link` between every two devices."""
    default = _default(fields, origin)
    if "links" not in fields:
        refuse_missing(fields, ("link",), origin, "", ": give links, or link for one between every pair")
        assert default is not None
        return named([Cable("", pair, default) for pair in combinations(devices, 2)], devices)
    cables = _listed(fields["links"], devices, default, origin)
    reached = {devices[0], *next_cables(cables, devices[0])}
    for device in devices:
        if device not in reached:
            raise ConfigError(f"{origin}: no links lead from {devices[0]} to {device}: add one to links")
    return named(cables, devices)


def _default(fields: Mapping[str, Any], origin: str) -> Link | None:
    return read_link(fields["link"], origin, "link") if "link" in fields else None


def _listed(entries: object, devices: list[str], default: Link | None, origin: str) -> tuple[Cable, ...]:
    if not isinstance(entries, list):
        raise ConfigError(f"{origin}: links must be a list of mappings with ends, not {shown(entries)}")
    cables = tuple(read_listed(entry, devices, default, origin, f"links.{i}") for i, entry in enumerate(entries))
    between: dict[frozenset[str], Cable] = {}
    for cable in cables:
        other = between.setdefault(frozenset(cable.ends), cable)
        if other is not cable:
            both = " and ".join(one.name or "-".join(one.ends) for one in (other, cable))
            raise ConfigError(f"{origin}: links has {both} between the same two devices")
    return cables


def medium_cable(entry: object, access_point: str, origin: str) -> Cable:
    """The medium of a wifi: one queue for both directions, which a message from station to station takes twice."""
    fields = require_mapping(entry, origin, MEDIUM)
    refuse_unknown_keys(fields, ("rate", "delay", "jitter", "loss"), origin, MEDIUM)
    return Cable(MEDIUM, (access_point, access_point), read_link(fields, origin, MEDIUM))


# --- a random mesh -----------------------------------------------------------------------------------------


def random_cables(entry: object, devices: list[str], origin: str) -> tuple[Cable, ...]:
    """A random connected graph with about `degree` links at each device.

    It consists of a random tree over all devices and of random further pairs, up to degree·n/2 links. Rates and delays
    are uniform between two bounds and rounded to four digits. A seed gives the same links on every machine.
    """
    fields = require_mapping(entry, origin, "links")
    refuse_unknown_keys(fields, ("degree", "seed", "rate", "delay"), origin, "links")
    refuse_missing(fields, ("degree", "seed", "rate"), origin, "links.")
    degree, seed = fields["degree"], fields["seed"]
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"{origin}: links.seed is {shown(seed)}, but it must be a whole number from 0 on")
    if type(degree) not in (int, float) or not degree >= 1 or not math.isfinite(degree):
        raise ConfigError(f"{origin}: links.degree is {shown(degree)}, but it must be a number from 1 on, like 2.5")
    rates = bounds_of(fields["rate"], parse_rate, origin, "links.rate", "[20 Mbit/s, 100 Mbit/s]")
    delays = bounds_of(fields.get("delay", ["0 ms", "0 ms"]), parse_duration, origin, "links.delay", "[1 ms, 5 ms]")
    if rates[0] <= 0:
        raise ConfigError(f"{origin}: links.rate begins at {shown(fields['rate'][0])}, but it must be more than zero")
    drawn = random.Random(seed)
    order = sorted(devices, key=lambda _: drawn.random())
    tree = [(order[int(drawn.random() * number)], order[number]) for number in range(1, len(order))]
    joined = {frozenset(pair) for pair in tree}
    left = [pair for pair in combinations(devices, 2) if frozenset(pair) not in joined]
    left.sort(key=lambda _: drawn.random())
    wanted = max(len(tree), round(degree * len(devices) / 2))
    cables = []
    index = {device: number for number, device in enumerate(devices)}
    for one, other in sorted([*tree, *left[: wanted - len(tree)]], key=lambda pair: sorted(index[end] for end in pair)):
        first, second = sorted((one, other), key=index.__getitem__)
        rate, delay = (rounded(low + (high - low) * drawn.random()) for low, high in (rates, delays))
        cables.append(Cable("", (first, second), Link(rate, rate, delay, delay)))
    return named(cables, devices)


def bounds_of(entry: object, parse: Parse, origin: str, where: str, example: str) -> tuple[float, float]:
    """Two bounds in SI units, the lower first; raises ConfigError that shows `example`."""
    if not isinstance(entry, list) or len(entry) != 2:
        raise ConfigError(f"{origin}: {where} is {shown(entry)}, but it must be two bounds, like {example}")
    low, high = (parsed(bound, parse, origin, where) for bound in entry)
    if low > high:
        raise ConfigError(f"{origin}: {where} is {shown(entry)}, but the lower bound must come first")
    return low, high
