"""Changes a link's rate while it carries traffic: our `Shaper` against Mininet's own method.

`python -m benchmarks.shaping` makes a capsule and builds real Mininet links in it. It changes their rates in turns by
`Shaper.change` (one netlink message, including the waking frame and the read-back) and by Mininet's
`TCIntf.config(bw=…)` (which runs `tc` several times). Then it counts the packets that survive in the queue during a
change. The last line is JSON.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.emulation.capsule import can_make_capsule, launch, prepare_inner
from testbed.emulation.shaping import Shaper, in_netns
from testbed.errors import EnvironmentLacks

CHANGES = 60
RATES_MBPS = (20.0, 50.0)
SLOW_MBPS = 0.5  # packets are queued at this rate …
FAST_MBPS = 50.0  # … when it changes to this one
PACKETS = 500
PAYLOAD_BYTES = 60  # 500 frames of 102 bytes fit in the smallest queue
DRAIN_S = 1.0  # after this much silence, no more packets arrive
PORT = 5201


def main() -> int:
    """Measure in a capsule and return the exit code; raises EnvironmentLacks if this host cannot have one."""
    if sys.argv[1:] == ["--inside"]:
        prepare_inner()
        measure()
        return 0
    lacking = can_make_capsule()
    if lacking is not None:
        raise EnvironmentLacks(f"benchmarks.shaping needs a capsule: {lacking}")
    root = Path(__file__).resolve().parents[1]
    return launch([sys.executable, "-m", "benchmarks.shaping", "--inside"], cwd=root)


def measure() -> None:
    """Build two equal links, time both methods in turns, count the packets that survive, and print."""
    from mininet.link import TCLink
    from mininet.log import setLogLevel
    from mininet.net import Mininet

    setLogLevel("critical")  # it reports tc's remarks about its own settings as errors
    Mininet.inited = True  # its fixLimits rewrites the host's sysctls
    net = Mininet(controller=None)
    pairs = [
        (net.addHost(f"h{side}", ip=f"10.{side}.0.1/24"), net.addHost(f"g{side}", ip=f"10.{side}.0.2/24"))
        for side in (1, 2)
    ]
    links = [net.addLink(near, far, cls=TCLink, bw=FAST_MBPS) for near, far in pairs]
    net.start()
    try:
        (ours_near, ours_far), (peer_near, peer_far) = pairs
        interface = links[0].intf1.name
        requests: list[float] = []
        with Shaper(ours_near.pid) as shaper:
            shaper.install(interface, FAST_MBPS * 1e6)

            def change_ours(mbps: float) -> None:
                applied = shaper.change(interface, mbps * 1e6)
                requests.append(applied.finished_s - applied.started_s)

            def change_peer(mbps: float) -> None:
                links[1].intf1.config(bw=mbps)

            ours, peer = time_by_turns(change_ours, change_peer)
            kept_ours = survivors(change_ours, ours_near.pid, ours_far.pid, ours_far.IP())
            kept_peer = survivors(change_peer, peer_near.pid, peer_far.pid, peer_far.IP())
    finally:
        net.stop()
    report(statistics.median(ours), statistics.median(requests), statistics.median(peer), kept_ours, kept_peer)


def time_by_turns(*ways: Callable[[float], None]) -> list[list[float]]:
    """The seconds of each change for each method; each change sets another rate than before."""
    taken: list[list[float]] = [[] for _ in ways]
    for number in range(CHANGES):
        for way, times in zip(ways, taken, strict=True):
            started = time.perf_counter()
            way(RATES_MBPS[number % len(RATES_MBPS)])
            times.append(time.perf_counter() - started)
    return taken


def survivors(change: Callable[[float], None], near: int, far: int, address: str) -> int:
    """The number of PACKETS datagrams on a slow link that arrive if its rate changes while they wait."""
    receiver = in_netns(far, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender = in_netns(near, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with receiver, sender:
        for each, option in ((receiver, socket.SO_RCVBUF), (sender, socket.SO_SNDBUF)):
            each.setsockopt(socket.SOL_SOCKET, option, 1 << 21)
        receiver.bind((address, PORT))
        receiver.settimeout(DRAIN_S)
        sender.connect((address, PORT))
        sender.send(b"find the neighbour")
        receiver.recv(100)
        change(SLOW_MBPS)
        for _ in range(PACKETS):
            sender.send(bytes(PAYLOAD_BYTES))
        change(FAST_MBPS)
        arrived = 0
        try:
            while True:
                arrived += len(receiver.recv(100)) == PAYLOAD_BYTES
        except TimeoutError:
            return arrived


def report(ours_s: float, request_s: float, peer_s: float, kept_ours: int, kept_peer: int) -> None:
    """Print a line of text, and a last line of JSON."""
    print(f"one change of rate: {ours_s * 1e6:.1f} us here, {peer_s * 1e3:.2f} ms by TCIntf.config ({CHANGES} each)")
    print(f"packets that survived one, of {PACKETS}: {kept_ours} here, {kept_peer} by TCIntf.config")
    result: dict[str, Any] = {
        "benchmark": "shaping",
        "peer": "mininet.link.TCIntf.config(bw=...)",
        "ratio": round(peer_s / ours_s, 1),
        "unit": "times cheaper per change of a link's rate",
        "medians": {"ours_s": ours_s, "ours_request_alone_s": request_s, "peer_s": peer_s},
        "changes": CHANGES,
        "packets_queued": PACKETS,
        "packets_kept": {"ours": kept_ours, "peer": kept_peer},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
