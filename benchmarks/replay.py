"""Replays link rates on the time clock: our replayer process against running `tc` at the time of each change.

`python -m benchmarks.replay` makes a capsule with veth links between network namespaces, shaped at both ends. Our
replayer and the peer take turns with a schedule that the peer can keep up with, and their lateness is compared. Then
our replayer alone replays fifty links with ten changes a second in each direction, with idle and with busy cores. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from testbed.clock import EmulatedClock
from testbed.emulation.capsule import can_make_capsule, launch, prepare_inner
from testbed.emulation.replayer import ReplayedLink, Replayer, schedule
from testbed.emulation.shaping import Shaper, tbf_parameters
from testbed.emulation.spawn import forkserver
from testbed.errors import EnvironmentLacks
from testbed.topologies.links import DOWN, UP
from testbed.traces.series import Series

LINKS = 50
COMPARED_LINKS = 5  # with all fifty links the peer falls behind forever
CHANGES_PER_S = 10  # of each direction of each link
PERIOD_S = 2.0
SECONDS = 6.0
BEGIN_BPS = 20e6


def main() -> int:
    """Measure inside a capsule, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        prepare_inner()
        measure(options.rounds)
        return 0
    lacking = can_make_capsule()
    if lacking is not None:
        raise EnvironmentLacks(f"benchmarks.replay needs a capsule: {lacking}")
    root = Path(__file__).resolve().parents[1]
    return launch([sys.executable, "-m", "benchmarks.replay", "--inside", "--rounds", str(options.rounds)], cwd=root)


def measure(rounds: int) -> None:
    """Run all rounds and print the report; the namespaces end with the capsule."""
    links = shaped_links(LINKS)
    few = links[: 2 * COMPARED_LINKS]
    ours, theirs, idle, busy = [], [], [], []
    for number in range(rounds):
        ours.append(by_replayer(few))
        theirs.append(by_tc(few))
        idle.append(by_replayer(links))
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
        busy.append(by_replayer(links))
        for hog in hogs:
            hog.kill()
            hog.wait()
        print(
            f"round {number + 1}: p99 late {1e3 * ours[-1][1]:.2f} ms here, {1e3 * theirs[-1][1]:.1f} ms by tc; "
            f"{2 * LINKS} queues: {1e3 * idle[-1][1]:.2f} ms idle, {1e3 * busy[-1][1]:.2f} ms busy"
        )

    def median(runs: Sequence[tuple[float, float, float]], which: int) -> float:
        return statistics.median(run[which] for run in runs)

    result = {
        "benchmark": "replay",
        "peer": "`tc qdisc change` as a process at each change's time",
        "ratio": round(median(theirs, 1) / median(ours, 1), 1),
        "unit": f"times less late (99th percentile) at {2 * COMPARED_LINKS * CHANGES_PER_S} changes of rate per second",
        "medians": {"ours_p99_late_s": median(ours, 1), "peer_p99_late_s": median(theirs, 1)},
        "rounds": rounds,
        "ours_median_late_s": median(ours, 0),
        "peer_median_late_s": median(theirs, 0),
        "ours_p99_late_s": median(ours, 1),
        "peer_p99_late_s": median(theirs, 1),
        "ours_core_share": median(ours, 2),
        "peer_core_share": median(theirs, 2),
        "changes_per_s_of_all_links": 2 * LINKS * CHANGES_PER_S,
        "all_links_idle_p99_late_s": median(idle, 1),
        "all_links_idle_core_share": median(idle, 2),
        "all_links_busy_p99_late_s": median(busy, 1),
        "all_links_busy_core_share": median(busy, 2),
    }
    print(json.dumps(result))


def shaped_links(count: int) -> list[ReplayedLink]:
    """A schedule for both directions of some links, each with its own times and rates."""
    draw = random.Random(4)
    holders = [
        subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 3600"], stdout=subprocess.PIPE)
        for _ in range(count + 1)
    ]
    for holder in holders:
        assert holder.stdout is not None
        holder.stdout.readline()
    middle, *ends = (holder.pid for holder in holders)
    adds = [f"link add d{n} type veth peer name v0 netns {pid}" for n, pid in enumerate(ends)]
    _ip(middle, *adds, *(f"link set d{n} up" for n in range(count)))
    links = []
    for number, pid in enumerate(ends):
        _ip(pid, "link set v0 up")
        for direction, namespace, interface in ((UP, pid, "v0"), (DOWN, middle, f"d{number}")):
            with Shaper(namespace) as shaper:
                shaper.install(interface, BEGIN_BPS)
            moments = sorted({draw.uniform(0, PERIOD_S) for _ in range(round(CHANGES_PER_S * PERIOD_S))})
            series = Series(tuple((moment, 8.0 * draw.randint(60_000, 12_500_000)) for moment in moments), PERIOD_S)
            links.append(ReplayedLink((f"link{number}", direction), namespace, interface, series, BEGIN_BPS))
    return links


def by_replayer(links: Sequence[ReplayedLink]) -> tuple[float, float, float]:
    """The median and p99 of lateness, and the share of a core, over the schedule's first SECONDS."""
    clock = EmulatedClock()
    replayer = Replayer(forkserver(), links, clock)
    clock.start()
    found = []
    while clock.now() < SECONDS:
        time.sleep(0.05)
        found += replayer.reports()
    found += replayer.end()
    wrong = [change for change in found if change.readback_bps != change.requested_bps]
    assert found and not wrong, f"read back otherwise than asked for: {wrong[:3]}"
    return *_late([change.late_s for change in found]), float(replayer.facts()["core_share"])


def by_tc(links: Sequence[ReplayedLink]) -> tuple[float, float, float]:
    """The same for running `tc` in the link's namespace when a change is due."""
    late, begun_s, cpu_before = [], time.monotonic(), sum(os.times()[:4])
    for due_s, index, rate_bps in schedule(links):
        if due_s > SECONDS:
            break
        time.sleep(max(0.0, begun_s + due_s - time.monotonic()))
        link, (_, limit, burst) = links[index], tbf_parameters(round(rate_bps))
        enter = ["nsenter", "-t", str(link.netns_pid), "-n"]
        change = ["tc", "qdisc", "change", "dev", link.interface, "root", "handle", "1:", "tbf"]
        values = ["rate", f"{rate_bps:.0f}bit", "limit", str(limit), "burst", str(burst)]
        subprocess.run([*enter, *change, *values], check=True)
        late.append(time.monotonic() - begun_s - due_s)
    return *_late(late), (sum(os.times()[:4]) - cpu_before) / (time.monotonic() - begun_s)


def _late(seconds: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]


def _ip(pid: int, *commands: str) -> None:
    batch = ["nsenter", "-t", str(pid), "-n", "ip", "-batch", "-"]
    subprocess.run(batch, input="\n".join(commands), text=True, check=True)


if __name__ == "__main__":
    sys.exit(main())
