"""The network of a topology alone, without workers: what `testbed ping`, `iperf` and `shell` look at.

Links are shaped as in a run, and the capsule's end takes everything down. Delay, jitter and loss need the kernel's
netem here. In a run without it receivers make the delay, but here nobody receives for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from testbed.emulation.medium import share_medium
from testbed.emulation.mininet_checks import check_bridge, start_mininet
from testbed.emulation.shaping import Netem, Shaper, ShapingFailed
from testbed.topologies.links import UP
from testbed.topologies.model import Topology
from testbed.topologies.shapes import WIFI


@dataclass(frozen=True)
class BareNetwork:
    """A network that stands: Mininet's own object, and whether its links have their delays, jitter and loss."""

    mininet: Any
    netem: bool


@contextmanager
def bare_network(topology: Topology) -> Iterator[BareNetwork]:
    """Build the network of a topology for a block; only for the first process of a capsule. Raises EnvironmentLacks."""
    from mininet.nodelib import LinuxBridge

    from testbed.topologies.mininet_adapter import build_topo

    net = start_mininet(build_topo(topology), LinuxBridge)
    try:
        for switch in net.switches:
            check_bridge(switch.name, set(switch.intfNames()) - {"lo"})
        if topology.shape == WIFI:
            (access_point,) = net.switches
            ((_, air),) = topology.interfaces.values()
            share_medium(air, sorted(set(access_point.intfNames()) - {"lo"}))
        with ExitStack() as opened:
            yield BareNetwork(net, _shape(topology, net, opened))
    finally:
        net.stop()


def _shape(topology: Topology, net: Any, opened: ExitStack) -> bool:
    """Put a queue on every direction of every link; returns whether netem makes the delays."""
    inside = {device.name: opened.enter_context(Shaper(net.get(device.name).pid)) for device in topology.devices}
    ports = opened.enter_context(Shaper())  # of the switches, which are in this namespace
    links = {cable.name: cable.link for cable in topology.links}
    netem = True
    for (name, direction), (node, interface) in topology.interfaces.items():
        link, shaper = links[name], inside.get(node, ports)
        if direction == UP:
            rate, below = link.up_bps, Netem(link.up_delay_s, link.up_jitter_s, link.up_loss)
        else:
            rate, below = link.down_bps, Netem(link.down_delay_s, link.down_jitter_s, link.down_loss)
        if netem:
            try:
                shaper.install(interface, rate, netem=below)
                continue
            except ShapingFailed:
                netem = False
        shaper.install(interface, rate)
    return netem
