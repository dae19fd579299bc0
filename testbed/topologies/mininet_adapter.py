"""Builds a Mininet `Topo` from a topology: its hosts have the devices' names.

The emulation asks for plain links and shapes them itself. Plain Mininet comes through the file
`topologies/mininet_adapter.py` and gets `TCLink`s with the rates and delays of the topology. If the kernel lacks netem,
Mininet prints tc's error for each delay and goes on without the delay. This module knows Mininet's classes and the
topology model, and nothing of workers or runs.

If links join devices directly, each device has one address for all its links, and a static route to every other device
through a neighbour's address. No link needs a subnet of its own.
"""

from __future__ import annotations

from typing import Any

from testbed.errors import ConfigError
from testbed.topologies.interfaces import ports_of
from testbed.topologies.model import SWITCH, Cable, Topology
from testbed.topologies.shapes import WIFI

BITS_PER_MEGABIT = 1e6
MAX_MN_RATE_BPS = 1e9  # TCIntf.bwParamMax is 1000 Mbit/s; above it Mininet leaves the link unshaped
QUEUE_MS = 100.0  # the longest that a packet waits in the token bucket, as on fast links of the emulation


def build_topo(topology: Topology, shaped: bool = False) -> Any:
    """The `mininet.topo.Topo` of a topology; `shaped` gives its links their rates, delays, jitter and loss.

    Without `shaped`, links have Mininet's default class, which `Mininet(link=...)` sets. Raises ConfigError for a rate
    that Mininet's own shaping cannot give.
    """
    from mininet.link import TCLink
    from mininet.topo import Topo

    topo = Topo()
    for switch in topology.switches:
        topo.addSwitch(switch)
    addresses = {device.name: address(number) for number, device in enumerate(topology.devices)}
    for device in topology.devices:
        if topology.switches:
            topo.addHost(device.name)
        else:
            hops = neighbours(topology, device.name)
            routes = [(addresses[target], addresses[via], port) for target, (via, port) in hops.items()]
            topo.addHost(device.name, cls=forwarder(), ip=f"{addresses[device.name]}/32", routes=routes)
    cables = topology.links
    if topology.shape == WIFI:
        if shaped:
            raise ConfigError(
                f"{topology.name} is a wifi, whose stations share one queue, which Mininet's own links cannot do; "
                "use testbed replay"
            )
        cables = tuple(Cable(device.name, (device.name, SWITCH), cables[0].link) for device in topology.devices)
    ports = ports_of(addresses, topology.switches, cables)
    for cable, (one, other) in zip(cables, ports, strict=True):
        options = {} if not shaped else {"cls": TCLink, **_directions(topology, cable)}
        topo.addLink(*cable.ends, port1=one, port2=other, **options)
    return topo


def neighbours(topology: Topology, device: str) -> dict[str, tuple[str, str]]:
    """For every other device, the neighbour on the way there, and the interface towards that neighbour."""
    cables = {cable.name: cable for cable in topology.links}
    found = {}
    for other in topology.devices:
        if other.name != device:
            first = topology.route(device, other.name)[0]
            found[other.name] = (cables[first[0]].beyond(device), topology.interfaces[first][1])
    return found


def address(number: int) -> str:
    """The address of a device by its index, which is the one that Mininet gives to the host of that index."""
    high, low = divmod(number + 1, 256)
    return f"10.0.{high}.{low}"


def forwarder() -> type[Any]:
    """The class of a host that forwards packets by static routes."""
    from subprocess import PIPE

    from mininet.node import Node

    class Forwarder(Node):
        """A host whose `routes` are triples of (address, neighbour's address, interface)."""

        def config(self, routes: Any = (), **params: Any) -> Any:
            """Turn on forwarding and install the routes; raises RuntimeError if the kernel refuses."""
            result = super().config(**params)
            knobs = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/*/rp_filter"
            refused = self.cmd(f"echo 1 > {knobs[0]}; for knob in {knobs[1]}; do echo 0 > $knob; done")
            if refused.strip():
                raise RuntimeError(f"host {self.name} cannot forward: {' '.join(refused.split())}")
            own = str(params["ip"]).partition("/")[0]
            batch = "".join(f"link set {name} up\n" for name in self.intfNames() if name != "lo")
            batch += "".join(f"route add {to}/32 via {via} dev {name} src {own} onlink\n" for to, via, name in routes)
            process = self.popen(["ip", "-batch", "-"], stdin=PIPE, encoding="utf-8")
            _, complaint = process.communicate(batch)
            if process.returncode:
                raise RuntimeError(f"host {self.name} takes no routes: {' '.join(complaint.split())}")
            return result

    return Forwarder


def _directions(topology: Topology, cable: Cable) -> dict[str, Any]:
    """TCLink's parameters for a link; raises ConfigError for a rate that TCLink would ignore."""
    link = cable.link
    if max(link.up_bps, link.down_bps) > MAX_MN_RATE_BPS:
        raise ConfigError(
            f"{topology.name}: the link of {cable.name} is faster than 1 Gbit/s, the most that Mininet's own "
            "links can be shaped to; lower it, or use testbed replay"
        )
    return {
        "params1": _shaping(link.up_bps, link.up_delay_s, link.up_jitter_s, link.up_loss),
        "params2": _shaping(link.down_bps, link.down_delay_s, link.down_jitter_s, link.down_loss),
    }


def _shaping(rate_bps: float, delay_s: float, jitter_s: float, loss: float) -> dict[str, Any]:
    """TCIntf's parameters for one direction."""
    shaping: dict[str, Any] = {"bw": rate_bps / BITS_PER_MEGABIT, "use_tbf": True, "latency_ms": QUEUE_MS}
    shaping |= {"delay": f"{delay_s * 1e3:g}ms"} if delay_s > 0 else {}
    shaping |= {"jitter": f"{jitter_s * 1e3:g}ms"} if jitter_s > 0 else {}
    return shaping | ({"loss": loss * 100} if loss > 0 else {})
