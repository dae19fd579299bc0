"""What the network of a topology really does, pair by pair; or Mininet's command line in it.

`python -m testbed.doctor.topology_probe ping|iperf|shell REQUEST ANSWER`, the first process of a capsule, reads a JSON
request from one descriptor and writes its answer to the other.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from types import FrameType
from typing import Any

from testbed.doctor.transfer import goodput_bps
from testbed.emulation.bare_network import BareNetwork, bare_network
from testbed.errors import EnvironmentLacks, TestbedError
from testbed.topologies.links import UP
from testbed.topologies.model import Topology
from testbed.wire import TCP_SHARE

PINGS = 5
PING_SPACING_S = 0.01
PING_PATIENCE_S = 5
LEAST_BYTES = 100_000  # of a transfer, so that its first piece weighs little
_TIMES = re.compile(r"= [\d.]+/([\d.]+)/")  # the mean of `rtt min/avg/max/mdev`
_LOSS = re.compile(r"([\d.]+)% packet loss")


def ping(topology: Topology, network: BareNetwork, names: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """The round trip of each pair, beside the sum of its delays, in ms."""
    links, rows = {cable.name: cable.link for cable in topology.links}, []
    for one, other in combinations(names, 2):
        hops = (*topology.route(one, other), *topology.route(other, one))
        delays = [links[name].up_delay_s if way == UP else links[name].down_delay_s for name, way in hops]
        measured, loss = _pinged(network, one, other)
        asked = {"from": one, "to": other, "asked_ms": 1e3 * sum(delays)}
        rows.append(asked | {"measured_ms": measured, "lost": loss})
    return rows


def iperf(topology: Topology, network: BareNetwork, names: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """What one TCP connection gets from each device to each other, beside what headers leave of the slowest link."""
    links, rows = {cable.name: cable.link for cable in topology.links}, []
    for one, other in permutations(names, 2):
        hops = topology.route(one, other)
        passes = Counter(name for name, _ in hops)  # both ways of a wifi share its medium
        rates = [(links[name].up_bps if way == UP else links[name].down_bps) / passes[name] for name, way in hops]
        asked = TCP_SHARE * min(rates)
        sender, receiver = network.mininet.get(one), network.mininet.get(other)
        size = max(LEAST_BYTES, int(asked / 8 * seconds))
        measured = goodput_bps(sender.pid, receiver.pid, receiver.IP(), size)
        row = {"from": one, "to": other, "asked_bps": asked, "measured_bps": measured}
        rows.append(row | {"share": measured / asked})
    return rows


NO_NETEM = (
    "Note: this kernel has no netem, so links have no delay here; in a run, receivers hold messages for it "
    "(`delay: auto`), or use `testbed sandbox`."
)


def shell(network: BareNetwork) -> None:
    """Mininet's own command line, until it ends or somebody presses Ctrl-C."""
    from mininet.cli import CLI
    from mininet.log import setLogLevel

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # Mininet goes on after a KeyboardInterrupt

    signal.signal(signal.SIGINT, end)
    setLogLevel("output")
    if not network.netem:
        print(NO_NETEM, file=sys.stderr, flush=True)
    CLI(network.mininet)


MEASURES: dict[str, Callable[[Topology, BareNetwork, Sequence[str], float], list[dict[str, Any]]]] = {
    "ping": ping,
    "iperf": iperf,
}


def _pinged(network: BareNetwork, one: str, other: str) -> tuple[float | None, float]:
    """The mean round trip in ms, None if nothing came back, and the share that was lost."""
    _ping(network, one, other, 1)  # resolves addresses, which in a new network takes up to a second
    said, complaint = _ping(network, one, other, PINGS)
    loss = _LOSS.search(said)
    if loss is None:
        raise EnvironmentLacks(f"ping from {one} to {other} did not work: {' '.join((complaint or said).split())}")
    times = _TIMES.search(said)
    return (float(times[1]) if times else None), float(loss[1]) / 100


def _ping(network: BareNetwork, one: str, other: str, count: int) -> tuple[str, str]:
    """What `ping` says, and what it complains of."""
    sender, receiver = network.mininet.get(one), network.mininet.get(other)
    command = ["ping", "-n", "-q", "-c", str(count), "-i", str(PING_SPACING_S), "-W", str(PING_PATIENCE_S)]
    process = sender.popen([*command, receiver.IP()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, complaint = process.communicate()
    return said, complaint


def main(what: str, request: dict[str, Any]) -> dict[str, Any]:
    """Build the network and do what is asked for; an error is part of the answer."""
    from testbed.emulation.capsule import prepare_inner

    try:
        prepare_inner()
        topology = Topology.from_dict(request["topology"])
        with bare_network(topology) as network:
            if what == "shell":
                shell(network)
                return {"netem": network.netem}
            return {
                "netem": network.netem,
                "rows": MEASURES[what](topology, network, request["devices"], request["seconds"]),
            }
    except TestbedError as error:
        return {"error": str(error), "exit_code": error.exit_code}


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2])) as asked:
        wanted = json.load(asked)
    given = main(sys.argv[1], wanted)
    with os.fdopen(int(sys.argv[3]), "w") as answer:
        json.dump(given, answer)
