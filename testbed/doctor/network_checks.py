"""The doctor's checks of the emulated network; they run in a capsule, in a network of two hosts that ends with it.

`python -m testbed.doctor.network_checks quick|full|netem` prints their findings as JSON. Each check makes what a run
would make.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from testbed.doctor.finding import Finding, failure, measured, tried
from testbed.errors import EnvironmentLacks
from testbed.temporary import temporary_folder
from testbed.units import format_duration, format_rate
from testbed.wire import TCP_SHARE

if TYPE_CHECKING:
    from testbed.doctor.bench_delay import DelayMeasured, JitterMeasured, LossMeasured
    from testbed.doctor.bench_link import Path as Link
    from testbed.doctor.bench_link import RateMeasured, StepMeasured
    from testbed.emulation.shaping import Shaper

TRIAL_RATE_BPS = 20e6
TRIAL_SECONDS = 0.5
TRIAL_ATTEMPTS = 5  # half a second is easily disturbed; nothing makes a link seem nearer to its rate than it is
SHAPED_SHARES = 0.9, 1.05  # of what TCP can reach: below it the host is slow, above it the link is not shaped
OPEN_BPS = 10e9  # a rate faster than any measurement
LINK_REMEDY = "load sch_tbf (modprobe sch_tbf), or use a kernel that has it"
SLOW_REMEDY = (
    "stop what else runs here; on a machine that is slow by itself use slower links, or `dilation: 2`; a run's verdict "
    "judges its own links"
)
NETEM_REMEDY = "load sch_netem (modprobe sch_netem) or go without: `delay: auto` then lets receivers hold messages"

MEDIUM_REMEDY = "only `shape: wifi` needs it; load ifb, sch_ingress, cls_u32 and act_mirred, or use the sandbox"


@contextmanager
def two_hosts() -> Iterator[Any]:
    """A Mininet network of two hosts, x and y, on one switch; only for the first process of a capsule."""
    from mininet.nodelib import LinuxBridge
    from mininet.topo import Topo

    from testbed.emulation.mininet_checks import check_bridge, start_mininet

    topo = Topo()
    topo.addSwitch("s1")
    for name in ("x", "y"):
        topo.addHost(name)
        topo.addLink(name, "s1")
    net = start_mininet(topo, LinuxBridge)
    try:
        check_bridge("s1", {"s1-eth1", "s1-eth2"})
        yield net
    finally:
        net.stop()


def _trials() -> list[Finding]:
    with two_hosts() as net:
        return [
            tried("shaped link", True, LINK_REMEDY, lambda: _link(net)),
            tried("netem", False, NETEM_REMEDY, lambda: _netem(net)),
            tried("sysctls", False, "see the error; runs go on without and note it", lambda: _sysctls(net)),
            tried("shared medium", False, MEDIUM_REMEDY, _medium),
            tried("Open vSwitch", False, "see the error; only `switch: openvswitch` needs it", _open_vswitch),
        ]


def _paths(net: Any, host: Shaper, switch: Shaper) -> dict[str, Link]:
    """From host x to host y: up is shaped at x's end of its link, down at the switch's end of y's."""
    from testbed.doctor.bench_link import Path

    ends = net.get("x").pid, net.get("y").pid, net.get("y").IP()
    return {
        "up": Path(*ends, host, "x-eth0", None, "s1-eth1"),
        "down": Path(*ends, switch, "s1-eth2", net.get("y").pid, "y-eth0"),
    }


def _measurements() -> list[Finding]:
    """Every rate and step, and the delay of an idle link, in both directions."""
    from testbed.doctor.bench_delay import measure_idle
    from testbed.doctor.bench_link import RATES_BPS, STEPS_BPS, measure_rate, measure_step
    from testbed.emulation.shaping import Shaper

    findings = []
    with two_hosts() as net, Shaper(net.get("x").pid) as host, Shaper() as switch:
        for direction, path in _paths(net, host, switch).items():
            findings += [_rate_finding(direction, measure_rate(path, rate)) for rate in RATES_BPS]
            findings += [_step_finding(direction, measure_step(path, *step)) for step in STEPS_BPS]
            findings.append(_idle_finding(direction, measure_idle(path)))
            path.shaper.install(path.interface, OPEN_BPS)
    return findings


def _netem_measurements() -> list[Finding]:
    """Every delay, jitter and loss, in both directions."""
    from testbed.doctor.bench_delay import DELAYS_S, JITTERS_S, LOSSES, measure_delay, measure_jitter, measure_loss
    from testbed.emulation.shaping import Shaper

    findings: list[Finding] = []
    with two_hosts() as net, Shaper(net.get("x").pid) as host, Shaper() as switch:
        for direction, path in _paths(net, host, switch).items() if _netem(net).ok else ():
            findings += [_delay_finding(direction, measure_delay(path, delay_s)) for delay_s in DELAYS_S]
            findings += [_jitter_finding(direction, measure_jitter(path, jitter_s)) for jitter_s in JITTERS_S]
            findings += [_loss_finding(direction, measure_loss(path, loss)) for loss in LOSSES]
            path.shaper.install(path.interface, OPEN_BPS)
    return findings


def _rate_finding(direction: str, found: RateMeasured) -> Finding:
    from testbed.doctor.bench_link import WINDOW_S

    detail = (
        f"TCP got {100 * found.share:.1f} % of the ideal {format_rate(round(found.rate_bps * TCP_SHARE))}; at most "
        f"{found.window_bytes} bytes in {format_duration(WINDOW_S)}, of {found.window_allowed_bytes:.0f} allowed"
    )
    return measured(f"rate {direction} {format_rate(found.rate_bps)}", found, detail, share=found.share)


def _step_finding(direction: str, found: StepMeasured) -> Finding:
    before = format_rate(found.before_bps) if found.before_bps else "an outage"
    detail = (
        f"at most {found.ahead_bytes:.0f} bytes ahead of the new rate and {found.behind_bytes:.0f} behind, of "
        f"{found.allowed_bytes:.0f} allowed"
    )
    return measured(f"step {direction} from {before} to {format_rate(found.after_bps)}", found, detail)


def _delay_finding(direction: str, found: DelayMeasured) -> Finding:
    detail = (
        f"netem added {1e3 * found.added_s:.3f} ms one way (median; 95 % at most {1e3 * found.p95_s:.3f} ms) where "
        f"{1e3 * found.asked_s:g} ms are asked for; it may be {1e3 * found.allowed_s:.2g} ms off"
    )
    return measured(f"delay {direction} {format_duration(found.asked_s)}", found, detail)


def _idle_finding(direction: str, found: DelayMeasured) -> Finding:
    detail = (
        f"an idle link adds {1e3 * found.added_s:.3f} ms one way (median; 95 % at most {1e3 * found.p95_s:.3f} ms) "
        "where no delay is asked for"
    )
    return measured(f"delay {direction} none", found, detail)


def _jitter_finding(direction: str, found: JitterMeasured) -> Finding:
    detail = (
        f"netem's delays varied by {1e3 * found.shown_s:.3f} ms, {100 * found.shown_s / found.asked_s:.0f} % of the "
        f"{1e3 * found.asked_s:g} ms that are asked for"
    )
    return measured(f"jitter {direction} {format_duration(found.asked_s)}", found, detail)


def _loss_finding(direction: str, found: LossMeasured) -> Finding:
    detail = (
        f"netem lost {found.lost} of {found.sent} datagrams, {100 * found.lost / found.sent:.2f} %; "
        f"{found.sent * found.asked:.0f} ± {found.allowed:.0f} are allowed"
    )
    return measured(f"loss {direction} {100 * found.asked:g} %", found, detail)


def _link(net: object) -> Finding:
    from testbed.doctor.transfer import goodput_bps
    from testbed.emulation.shaping import Shaper

    sender, receiver = net.get("x"), net.get("y")  # type: ignore[attr-defined]
    least, most = SHAPED_SHARES
    with Shaper(sender.pid) as shaper:
        shaper.install(sender.defaultIntf().name, TRIAL_RATE_BPS)
        size = int(TRIAL_RATE_BPS / 8 * TRIAL_SECONDS)
        shares: list[float] = []
        while len(shares) < TRIAL_ATTEMPTS and not (shares and least < shares[-1] < most):
            goodput = goodput_bps(sender.pid, receiver.pid, receiver.IP(), size)
            shares.append(goodput / (TRIAL_RATE_BPS * TCP_SHARE))
    return judge_link(min(shares, key=lambda each: abs(each - 1)))


def judge_link(share: float) -> Finding:
    """What TCP's share of its ideal over a queue of TRIAL_RATE_BPS says: shaped, not shaped, or shaped and slow.

    Nothing gets more through a queue than its rate, and anything that keeps a host busy gets less through.
    """
    least, most = SHAPED_SHARES
    got = format_rate(share * TRIAL_RATE_BPS * TCP_SHARE)
    detail = f"over TBF at {format_rate(TRIAL_RATE_BPS)} TCP got {got}, {100 * share:.1f} % of the ideal"
    if share >= most:
        return Finding("shaped link", False, True, f"{detail}: the queue does not limit it", LINK_REMEDY)
    if share <= least:
        slow = f"{detail}: it is shaped, but this machine is too slow or too busy to fill it"
        return Finding("shaped link", True, True, slow, SLOW_REMEDY, slow=True)
    return Finding("shaped link", True, True, detail)


def _netem(net: object) -> Finding:
    from testbed.emulation.shaping import Netem, Shaper, ShapingFailed

    receiver = net.get("y")  # type: ignore[attr-defined]
    interface = receiver.defaultIntf().name
    with Shaper(receiver.pid) as shaper:
        try:
            shaper.install(interface, TRIAL_RATE_BPS, netem=Netem(0.005))
        except ShapingFailed as error:
            return Finding("netem", False, False, f"an extra delay of 5 ms: {failure(error)}", NETEM_REMEDY)
        finally:
            shaper.install(interface, OPEN_BPS)
    return Finding("netem", True, False, "delays can be made by the kernel")


def _sysctls(net: object) -> Finding:
    """The settings that each device writes in its network, tried in one."""
    from testbed.emulation.shaping import in_netns
    from testbed.worker.proc_settings import keep_idle_connections_fast

    refused = in_netns(net.get("y").pid, keep_idle_connections_fast)  # type: ignore[attr-defined]
    return Finding(
        "sysctls", not refused, False, "; ".join(refused) or "each device's network takes its TCP settings",
        "run where /proc/sys can be written, such as a container that allows it; runs go on without and note it",
    )  # fmt: skip


def _medium() -> Finding:
    """One queue for all ports of the switch. Nothing passes them afterwards."""
    from testbed.emulation.medium import share_medium
    from testbed.emulation.shaping import Shaper

    share_medium("s1-air", ("s1-eth1", "s1-eth2"))
    with Shaper() as shaper:
        shaper.install("s1-air", TRIAL_RATE_BPS)
    return Finding("shared medium", True, False, "one queue can serve all stations of a wifi, in both directions")


def _open_vswitch() -> Finding:
    from testbed.emulation.ovs import OpenVSwitch

    with temporary_folder("headroom-doctor-") as folder:
        ovs = OpenVSwitch(folder / "ovs")
        try:
            ovs.start()
            return Finding("Open vSwitch", True, False, f"started {ovs.facts()}")
        except EnvironmentLacks as error:
            return Finding("Open vSwitch", False, False, str(error), "only `switch: openvswitch` needs it")
        finally:
            ovs.stop()


TRIALS = {"quick": _trials, "full": _measurements, "netem": _netem_measurements}


def main(effort: str) -> list[Finding]:
    """All checks of this effort. Where not even a network of two hosts can be built, that alone."""
    from testbed.emulation.capsule import prepare_inner

    try:
        prepare_inner()
        return TRIALS[effort]()
    except Exception as error:
        remedy = "see the error; runs end with the same one"
        return [Finding("emulated network", False, True, f"two hosts and a bridge: {failure(error)}", remedy)]


if __name__ == "__main__":
    print(json.dumps([asdict(finding) for finding in main(sys.argv[1])]))
    sys.stdout.flush()
