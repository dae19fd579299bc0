"""Names of links and interfaces: no two alike, and none that the kernel or a trace could not take.

A link between two devices is named by its ends, `a-b`. Dashes are allowed in devices' names, so two links may come to
the same name (`a` to `b-c`, and `a-b` to `c`), or to a device's; those are written `a:b-c`, which no device's name can
be part of. It does not know where links come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from testbed.errors import ConfigError
from testbed.topologies.links import Cable
from testbed.topologies.mininet_adapter import interfaces

if TYPE_CHECKING:
    from testbed.topologies.model import Topology

MAX_INTERFACE_LENGTH = 15  # IFNAMSIZ in linux/if.h, less its closing zero
APART = ":"  # between the ends of a link whose name with a dash would mean something else too


def named(cables: Sequence[Cable], devices: Iterable[str]) -> tuple[Cable, ...]:
    """The links of a shape, those without a name of their own named by their ends."""
    plain = Counter("-".join(cable.ends) for cable in cables if not cable.name)
    plain.update(devices)
    return tuple(cable if cable.name else replace(cable, name=_by_ends(cable, plain)) for cable in cables)


def _by_ends(cable: Cable, plain: Counter[str]) -> str:
    name = "-".join(cable.ends)
    return name if plain[name] == 1 else APART.join(cable.ends)


def refuse_shared_names(topology: Topology, origin: str) -> None:
    """Raise where two links or two interfaces would have one name, or an interface one that Linux does not take."""
    found: dict[str, tuple[str, str]] = {}
    devices = {device.name for device in topology.devices}
    for cable in topology.links:
        if cable.name in found:
            both = " and ".join(" to ".join(ends) for ends in (found[cable.name], cable.ends))
            raise ConfigError(f"{origin}: two links are named {cable.name}, {both}: give one of them another name")
        found[cable.name] = cable.ends
        if cable.name in devices and cable in topology.cables:
            raise ConfigError(
                f"{origin}: the link {' to '.join(cable.ends)} is named {cable.name}, like a device: give it another"
            )
    taken: set[tuple[str, str]] = set()
    for node, interface in interfaces(topology).values():
        if len(interface) > MAX_INTERFACE_LENGTH:
            raise ConfigError(
                f"{origin}: the interface {interface} of {node} would have {len(interface)} characters and may have "
                f"{MAX_INTERFACE_LENGTH}: give {node} a shorter name, or fewer links"
            )
        if (node, interface) in taken:
            raise ConfigError(f"{origin}: two interfaces of {node} would be named {interface}: rename a device")
        taken.add((node, interface))
