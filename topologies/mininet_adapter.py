"""A topology as a Mininet `Topo`: hosts named like the devices around one switch.

Two callers. The emulation asks for plain links and shapes them itself. Plain Mininet loads this file by

    mn --custom topologies/mininet_adapter.py --topo headroom,topologies/star4.yaml --switch lxbr --controller none

and then each link is a `TCLink` with the device's rates and delays (where the kernel lacks netem, Mininet prints
tc's error for each delay and goes on without it). `mn` executes the text of this file with the system's Python,
without a module name or `__file__`, and copies its global names into its own: hence the imports inside functions.
It knows Mininet's classes and the topology model, nothing of workers or runs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topologies.model import Topology

BITS_PER_MEGABIT = 1e6
MAX_MN_RATE_BPS = 1e9  # TCIntf.bwParamMax is 1000 Mbit/s; above it Mininet leaves the link unshaped
QUEUE_MS = 100.0  # how long a packet may wait in the token bucket: the same 100 ms of rate as in the emulation


def build_topo(topology: Topology, shaped: bool = False) -> Any:
    """A `mininet.topo.Topo` of the star; `shaped` gives the links their rates and delays.

    Plain links have Mininet's default class, so that `Mininet(link=...)` decides. Raises ConfigError for a rate
    that Mininet's own shaping cannot give.
    """
    from mininet.link import TCLink
    from mininet.topo import Topo

    from testbed.errors import ConfigError
    from topologies.model import SWITCH

    topo = Topo()
    topo.addSwitch(SWITCH)
    for device in topology.devices:
        topo.addHost(device.name)
        link = device.link
        if not shaped:
            topo.addLink(device.name, SWITCH)
            continue
        if max(link.up_bps, link.down_bps) > MAX_MN_RATE_BPS:
            raise ConfigError(
                f"{topology.name}: the link of {device.name} is faster than 1 Gbit/s, the most that Mininet's own "
                "links can be shaped to; lower it, or use testbed replay"
            )
        topo.addLink(
            device.name,
            SWITCH,
            cls=TCLink,
            params1=_shaping(link.up_bps, link.up_delay_s),
            params2=_shaping(link.down_bps, link.down_delay_s),
        )
    return topo


def _shaping(rate_bps: float, delay_s: float) -> dict[str, Any]:
    """TCIntf's parameters for one direction."""
    shaping: dict[str, Any] = {"bw": rate_bps / BITS_PER_MEGABIT, "use_tbf": True, "latency_ms": QUEUE_MS}
    return shaping | ({"delay": f"{delay_s * 1e3:g}ms"} if delay_s > 0 else {})


def _for_mn(name_or_path: object) -> Any:
    """What `--topo headroom,PATH` calls: the topology in a file, or a bundled one by name, with shaped links."""
    root = _repository()
    if root not in sys.path:
        sys.path.insert(0, root)
    from topologies.model import Topology, find_topology

    return build_topo(Topology.load(find_topology(str(name_or_path))), shaped=True)


def _repository() -> str:
    """The folder that holds the packages; taken from the code object, for `mn` sets no `__file__`."""
    from pathlib import Path

    return str(Path(_repository.__code__.co_filename).resolve().parent.parent)


topos = {"headroom": _for_mn}
