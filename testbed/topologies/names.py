"""Names of links and interfaces: each is unique, and the kernel and traces accept it.

A link between two devices is named after its ends: `a-b`. Device names may contain dashes, so two links can get the
same name (`a` to `b-c`, and `a-b` to `c`), and a link can get the name of a device. Such a link is written with a
colon, `a:b-c`, because no device name contains one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from testbed.errors import ConfigError
from testbed.topologies.interfaces import Interface
from testbed.topologies.links import Cable

MAX_INTERFACE_LENGTH = 15  # IFNAMSIZ in linux/if.h, less its closing zero
COLON = ":"  # joins the ends of a link whose name with a dash is taken


def named(cables: Sequence[Cable], devices: Iterable[str]) -> tuple[Cable, ...]:
    """The same links; those without a name are named after their ends."""
    by_dash = Counter("-".join(cable.ends) for cable in cables if not cable.name)
    by_dash.update(devices)
    return tuple(cable if cable.name else replace(cable, name=_name_by_ends(cable, by_dash)) for cable in cables)


def _name_by_ends(cable: Cable, by_dash: Counter[str]) -> str:
    name = "-".join(cable.ends)
    return name if by_dash[name] == 1 else COLON.join(cable.ends)


def refuse_shared_link_names(
    links: Iterable[Cable], between: Collection[Cable], devices: Collection[str], origin: str
) -> None:
    """Raise ConfigError if two links share a name, or if a link of `between` has a device's name.

    `between` holds the links that are not a device's own link to its switch: that one has the device's name.
    """
    found: dict[str, tuple[str, str]] = {}
    for cable in links:
        if cable.name in found:
            both = " and ".join(" to ".join(ends) for ends in (found[cable.name], cable.ends))
            raise ConfigError(f"{origin}: two links are named {cable.name}, {both}: give one of them another name")
        found[cable.name] = cable.ends
        if cable.name in devices and cable in between:
            raise ConfigError(
                f"{origin}: the link {' to '.join(cable.ends)} is named {cable.name}, like a device: give it another"
            )


def refuse_bad_interfaces(interfaces: Iterable[Interface], origin: str) -> None:
    """Raise ConfigError if an interface name is too long for Linux, or if two interfaces of a node share a name."""
    taken: set[Interface] = set()
    for node, interface in interfaces:
        if len(interface) > MAX_INTERFACE_LENGTH:
            raise ConfigError(
                f"{origin}: the interface {interface} of {node} would have {len(interface)} characters and may have "
                f"{MAX_INTERFACE_LENGTH}: give {node} a shorter name, or fewer links"
            )
        if (node, interface) in taken:
            raise ConfigError(f"{origin}: two interfaces of {node} would be named {interface}: rename a device")
        taken.add((node, interface))
