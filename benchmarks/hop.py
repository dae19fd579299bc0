"""The time of one message from one process to another, in two network namespaces that one link joins.

`python -m benchmarks.hop` sends messages of 3 KB to and fro: by blocking sockets in C and in Python, by raw pyzmq, by a
worker's data plane alone, and as native and as paced workers do it. `--against FOLDER` measures the hop of workers in
another checkout of this repository, too. All ways take turns. A round's figure is half the median round trip; figures
are medians over the rounds, with their range. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.hop_ends import ADDRESSES
from benchmarks.rounds import ratios, spread, told
from testbed.emulation.capsule import can_make_capsule, launch, prepare_inner
from testbed.errors import EnvironmentLacks

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("C", "sockets", "pyzmq", "plane", "native", "paced")
COMPARED = ("native", "paced")  # with another checkout
PATIENCE_S = 60.0


def main() -> int:
    """Measure in a capsule and return the exit code; raises EnvironmentLacks if this host cannot have one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hops", type=int, default=2000, help="round trips of a round")
    parser.add_argument("--bytes", type=int, default=3072, help="of a message's payload")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        prepare_inner()
        measure(given)
        return 0
    lacking = can_make_capsule()
    if lacking is not None:
        raise EnvironmentLacks(f"benchmarks.hop needs a capsule: {lacking}")
    if given.against is not None and not (given.against / "testbed").is_dir():
        parser.error(f"{given.against} is no checkout of this repository")
    command = [sys.executable, "-m", "benchmarks.hop", "--inside", *sys.argv[1:]]
    return launch(command, cwd=Path.cwd(), env=dict(os.environ) | {"PYTHONPATH": str(ROOT)})


def measure(given: argparse.Namespace) -> None:
    """Let all ways take turns, and print."""
    from mininet.log import setLogLevel
    from mininet.net import Mininet

    setLogLevel("critical")
    Mininet.inited = True  # its fixLimits rewrites the host's sysctls
    checkouts = {"ours": ROOT} | ({} if given.against is None else {"theirs": given.against.resolve()})
    turns = [("ours", way) for way in WAYS] + [("theirs", way) for way in COMPARED if "theirs" in checkouts]
    found: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
    net = Mininet(controller=None)
    hosts = {end: net.addHost(end, ip=f"{address}/24") for end, address in ADDRESSES.items()}
    net.addLink(*hosts.values())
    net.start()
    try:
        for number in range(given.rounds):
            for whose, way in turns[:: -1 if number % 2 else 1]:
                found[whose, way].append(hop_s(hosts, way, checkouts[whose], given.hops, given.bytes))
    finally:
        net.stop()
    report(found, given)


def hop_s(hosts: dict[str, Any], way: str, checkout: Path, hops: int, size: int) -> float:
    """Half the median round trip of one way between the two hosts."""
    with tempfile.TemporaryDirectory(prefix="headroom-hop-") as folder:
        ends = {}
        for end, host in reversed(hosts.items()):
            program = [sys.executable, "-P", str(ROOT / "benchmarks/hop_ends.py")]
            program += [way, end, str(hops), str(size), folder]
            ends[end] = host.popen(program, stdout=subprocess.PIPE, cwd=str(checkout), env=environment(checkout))
        try:
            answered, _ = ends["near"].communicate(timeout=PATIENCE_S)
        finally:
            for process in ends.values():
                process.kill()
                process.wait()
    return statistics.median(json.loads(answered)) / 2


def environment(checkout: Path) -> dict[str, str]:
    """The environment in which an end finds the checkout's modules."""
    return dict(os.environ) | {"PYTHONPATH": str(checkout)}


def report(found: dict[tuple[str, str], list[float]], given: argparse.Namespace) -> None:
    """Print a line of text for each way, and a last line of JSON."""
    micros = {turn: [one * 1e6 for one in times] for turn, times in found.items()}
    for (whose, way), times in micros.items():
        print(f"{way}{'' if whose == 'ours' else ' there'}: {spread(times)} us", flush=True)
    line: dict[str, Any] = {
        "benchmark": "hop",
        "peer": "blocking sockets in C",
        "unit": "times the time of one hop of a native worker",
        "ratio": statistics.median(ratios(found["ours", "native"], found["ours", "C"])),
        "medians_us": {way: statistics.median(micros["ours", way]) for way in WAYS},
        "bytes": given.bytes,
        "round_trips": given.hops,
        "turns": given.rounds,
    }
    for way in WAYS[1:]:
        line[f"{way} to C"] = told(ratios(found["ours", way], found["ours", "C"]))
    if given.against is not None:
        for way in COMPARED:
            compared = ratios(found["ours", way], found["theirs", way])
            print(f"{way}: {spread(compared)} times the hop in {given.against}")
            line[f"{way} to theirs"] = told(compared)
    print(json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
