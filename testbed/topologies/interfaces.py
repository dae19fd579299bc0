"""The network interface at each end of each link, as Mininet names it.

A node's ports are numbered in the order of its links, from 0 on devices and from 1 on switches. Port 2 of device `a`
is the interface `a-eth2`. This module knows nodes only by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from testbed.topologies.links import Cable, Hop

Interface = tuple[str, str]  # (node, name of the interface on it)


def ports_of(devices: Iterable[str], switches: Iterable[str], links: Sequence[Cable]) -> list[tuple[int, int]]:
    """The port numbers of each link, at its first end and at its second."""
    free = dict.fromkeys(devices, 0) | dict.fromkeys(switches, 1)
    ports = []
    for cable in links:
        first, second = cable.ends
        ports.append((free[first], free[second]))
        free[first] += 1
        free[second] += 1
    return ports


def interfaces_of(devices: Iterable[str], switches: Iterable[str], links: Sequence[Cable]) -> dict[Hop, Interface]:
    """The interface through which each direction of each link leaves its node."""
    found = {}
    for cable, ports in zip(links, ports_of(devices, switches, links), strict=True):
        for end, port in zip(cable.ends, ports, strict=True):
            found[cable.hop_from(end)] = (end, f"{end}-eth{port}")
    return found
