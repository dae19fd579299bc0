"""What this machine can emulate, found by trying it: a capsule, a shaped link, netem, a limit that kills, one core.
In full also how well: rates, steps and paced compute, against what is promised (`bench_link`, `bench_compute`).

Each trial makes what a run would make, in namespaces and groups of its own, and leaves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import EnvironmentLacks, TestbedError
from testbed.units import format_bandwidth, format_duration, format_rate

if TYPE_CHECKING:
    from testbed.emulation.bench_compute import ComputeMeasured
    from testbed.emulation.bench_delay import DelayMeasured, LossMeasured
    from testbed.emulation.bench_link import Path as Link
    from testbed.emulation.bench_link import RateMeasured, StepMeasured
    from testbed.emulation.shaping import Shaper

TRIAL_RATE_BPS = 20e6
TRIAL_SECONDS = 0.5
TRIAL_ATTEMPTS = 5  # half a second is easily disturbed, and nothing makes a link seem nearer to its rate than it is
TCP_SHARE = 0.956
VICTIM_BYTES = 96 * 2**20
LIMIT_BYTES = 64 * 2**20
OPEN_BPS = 10e9  # faster than any measurement
BUSY_REMEDY = "stop what else runs here and measure again; runs that do not need this are judged by their own verdict"
TRIALS_PATIENCE_S = {"quick": 60.0, "full": 300.0, "netem": 300.0}
SAFE_SHARE = 0.45  # of the measured rate: what the devices' streaming rates may add up to


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    ok: bool
    required: bool  # without it no mininet run can be made
    detail: str
    remedy: str = ""
    fidelity: bool = False  # whether it says how well this machine emulates, not what it can
    measured: dict[str, float] = field(default_factory=dict)  # figures behind `detail`; SI units, in the names


def examine() -> list[Finding]:
    """All trials, in the order they build on each other."""
    capsule = _capsule()
    findings = [_mininet(), capsule]
    findings += _inside() if capsule.ok else []
    return [*findings, _memory(), *_streaming()]


def measure() -> list[Finding]:
    """How well this machine emulates: rates, steps and netem in both directions, and paced compute; takes a minute."""
    from testbed.emulation.bench_compute import DUE_S, measure_compute

    return [*_inside("full"), *measure_netem(), *(_pace_finding(measure_compute(due_s)) for due_s in DUE_S)]


def measure_netem() -> list[Finding]:
    """What netem's delays and losses really are in both directions; nothing where the kernel has no netem."""
    return _inside("netem")


def _mininet() -> Finding:
    import importlib.util
    import shutil

    missing = [name for name in ("mnexec", "brctl", "ip") if shutil.which(name, path=_path()) is None]
    if importlib.util.find_spec("mininet") is None:
        missing.insert(0, "the Python package mininet")
    return Finding(
        "Mininet", not missing, True,
        f"{', '.join(missing)} missing" if missing else "mininet, mnexec, brctl and ip are here",
        "apt-get install mininet bridge-utils iproute2, and a venv that sees system packages (script/setup)",
    )  # fmt: skip


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _capsule() -> Finding:
    from testbed.emulation.capsule import can_make_capsule

    reason = can_make_capsule()
    user = "" if os.geteuid() == 0 else " in a user namespace"
    return Finding("capsule", reason is None, True, reason or f"own PID, mount and network namespace{user}",
                   "allow user namespaces, or run as root")  # fmt: skip


def _inside(effort: str = "quick") -> list[Finding]:
    """The trials that need a capsule, made in one."""
    from testbed.emulation.capsule import unshare_command

    trial = subprocess.run(
        [*unshare_command(), sys.executable, "-m", "testbed.emulation.doctor", effort],
        capture_output=True, text=True, timeout=TRIALS_PATIENCE_S[effort], check=False,
    )  # fmt: skip
    lines = trial.stdout.strip().splitlines()
    if trial.returncode or not lines:
        error = (trial.stderr.strip().splitlines() or ["no output"])[-1]
        return [Finding("shaped link", False, True, error, "see the error; iproute2 and a kernel with TBF are needed")]
    return [Finding(**line) for line in json.loads(lines[-1])]


def _memory() -> Finding:
    """A process that outgrows its limit must be killed, and the kernel must count it."""
    from testbed.emulation.cgroups import DeviceCgroup, detect

    mode = detect()
    remedy = "run as root, or below a delegated cgroup v2 (systemd-run --user --scope -p Delegate=yes)"
    if not mode.enforced:
        return Finding("memory limit", False, False, mode.reason, remedy)
    group = None
    try:
        group = DeviceCgroup.create(mode, f"doctor-{os.getpid()}", "victim")
        group.set_limit(LIMIT_BYTES)
        eat = f"open({str(group.memory_path / 'cgroup.procs')!r}, 'w').write('0'); b = bytearray({VICTIM_BYTES})"
        ended = subprocess.run([sys.executable, "-c", eat], capture_output=True, timeout=30, check=False).returncode
        kills = group.oom_kills()
    except (TestbedError, OSError, subprocess.TimeoutExpired) as error:
        return Finding("memory limit", False, False, str(error), remedy)
    finally:
        if group is not None:
            group.kill_and_remove()
    killed = ended == -9 and kills >= 1
    fate = "killed and counted" if killed else f"not killed ({ended})"
    detail = f"{mode.reason}; a process over its limit was {fate}"
    return Finding("memory limit", killed, False, detail, "the kernel must enforce memory limits without swap")


def _streaming() -> list[Finding]:
    from testbed.emulation.host import streaming_Bps

    rate = streaming_Bps()
    limit = format_bandwidth(rate * SAFE_SHARE)
    detail = f"{format_bandwidth(rate)} on one core: the devices' streaming rates should add up to at most {limit}"
    return [Finding("streaming rate", True, False, detail)]


# --- inside the capsule ------------------------------------------------------------------------------------


@contextmanager
def two_hosts() -> Iterator[Any]:
    """A Mininet network of two hosts, x and y, on one switch; only for the first process of a capsule."""
    from mininet.log import setLogLevel
    from mininet.net import Mininet
    from mininet.nodelib import LinuxBridge
    from mininet.topo import Topo

    setLogLevel("critical")
    Mininet.inited = True
    topo = Topo()
    topo.addSwitch("s1")
    for name in ("x", "y"):
        topo.addHost(name)
        topo.addLink(name, "s1")
    net = Mininet(topo, switch=LinuxBridge, controller=None)
    net.start()
    try:
        yield net
    finally:
        net.stop()


def _trials() -> list[Finding]:
    with two_hosts() as net:
        return [_link(net), _netem(net), _knobs(net), _open_vswitch()]


def _paths(net: Any, host: Shaper, switch: Shaper) -> dict[str, Link]:
    """From host x to host y, up (shaped at x's end of its link) and down (at the switch's end of y's)."""
    from testbed.emulation.bench_link import Path

    ends = net.get("x").pid, net.get("y").pid, net.get("y").IP()
    return {
        "up": Path(*ends, host, "x-eth0", None, "s1-eth1"),
        "down": Path(*ends, switch, "s1-eth2", net.get("y").pid, "y-eth0"),
    }


def _measurements() -> list[Finding]:
    """Every rate and step in both directions."""
    from testbed.emulation.bench_link import RATES_BPS, STEPS_BPS, measure_rate, measure_step
    from testbed.emulation.shaping import Shaper

    findings = []
    with two_hosts() as net, Shaper(net.get("x").pid) as host, Shaper() as switch:
        for direction, path in _paths(net, host, switch).items():
            findings += [_rate_finding(direction, measure_rate(path, rate)) for rate in RATES_BPS]
            findings += [_step_finding(direction, measure_step(path, *step)) for step in STEPS_BPS]
            path.shaper.install(path.interface, OPEN_BPS)
    return findings


def _netem_measurements() -> list[Finding]:
    """Every delay and loss in both directions."""
    from testbed.emulation.bench_delay import DELAYS_S, LOSSES, measure_delay, measure_loss
    from testbed.emulation.shaping import Shaper

    findings: list[Finding] = []
    with two_hosts() as net, Shaper(net.get("x").pid) as host, Shaper() as switch:
        for direction, path in _paths(net, host, switch).items() if _netem(net).ok else ():
            findings += [_delay_finding(direction, measure_delay(path, delay_s)) for delay_s in DELAYS_S]
            findings += [_loss_finding(direction, measure_loss(path, loss)) for loss in LOSSES]
            path.shaper.install(path.interface, OPEN_BPS)
    return findings


def _rate_finding(direction: str, found: RateMeasured) -> Finding:
    from testbed.emulation.bench_link import WINDOW_S

    detail = (
        f"TCP got {100 * found.share:.1f} % of the ideal {format_rate(round(found.rate_bps * TCP_SHARE))}; at most "
        f"{found.window_bytes} bytes in {format_duration(WINDOW_S)}, of {found.window_allowed_bytes:.0f} allowed"
    )
    return _measured(f"rate {direction} {format_rate(found.rate_bps)}", found, detail, share=found.share)


def _step_finding(direction: str, found: StepMeasured) -> Finding:
    before = format_rate(found.before_bps) if found.before_bps else "an outage"
    detail = (
        f"at most {found.ahead_bytes:.0f} bytes ahead of the new rate and {found.behind_bytes:.0f} behind, of "
        f"{found.allowed_bytes:.0f} allowed"
    )
    return _measured(f"step {direction} from {before} to {format_rate(found.after_bps)}", found, detail)


def _delay_finding(direction: str, found: DelayMeasured) -> Finding:
    detail = (
        f"netem added {1e3 * found.added_s:.3f} ms one way (median; 95 % at most {1e3 * found.p95_s:.3f} ms) where "
        f"{1e3 * found.asked_s:g} ms are asked for"
    )
    name = f"delay {direction} {format_duration(found.asked_s)}"
    return Finding(name, found.ok, False, detail, BUSY_REMEDY, True, asdict(found))


def _loss_finding(direction: str, found: LossMeasured) -> Finding:
    detail = (
        f"netem lost {found.lost} of {found.sent} datagrams, {100 * found.lost / found.sent:.2f} %; "
        f"{found.sent * found.asked:.0f} ± {found.allowed:.0f} are allowed"
    )
    name = f"loss {direction} {100 * found.asked:g} %"
    return Finding(name, found.ok, False, detail, BUSY_REMEDY, True, asdict(found))


def _pace_finding(found: ComputeMeasured) -> Finding:
    detail = (
        f"mean {100 * found.mean_error:+.2f} % off the device model, 95 % of {found.count} blocks within "
        f"{100 * found.p95_error:.2f} %"
    )
    return _measured(f"compute, blocks of {format_duration(round(found.due_s, 4))}", found, detail)


def _measured(
    name: str, found: RateMeasured | StepMeasured | ComputeMeasured, detail: str, **also: float
) -> Finding:
    """How well this machine emulates in one respect, with every figure behind it."""
    return Finding(name, found.ok, False, detail, BUSY_REMEDY, fidelity=True, measured=asdict(found) | also)


def _link(net: object) -> Finding:
    from testbed.emulation.shaping import Shaper

    sender, receiver = net.get("x"), net.get("y")  # type: ignore[attr-defined]
    with Shaper(sender.pid) as shaper:
        shaper.install(sender.defaultIntf().name, TRIAL_RATE_BPS)
        size = int(TRIAL_RATE_BPS / 8 * TRIAL_SECONDS)
        shares: list[float] = []
        while len(shares) < TRIAL_ATTEMPTS and not (shares and _is_shaped(shares[-1])):
            goodput = _transfer(sender.pid, receiver.pid, receiver.IP(), size)
            shares.append(goodput / (TRIAL_RATE_BPS * TCP_SHARE))
    share = min(shares, key=lambda each: abs(each - 1))
    got = format_rate(share * TRIAL_RATE_BPS * TCP_SHARE)
    detail = f"TBF at {format_rate(TRIAL_RATE_BPS)}: TCP got {got}, {100 * share:.1f} % of the ideal"
    return Finding("shaped link", _is_shaped(share), True, detail, "a kernel with sch_tbf, a host not overloaded")


def _is_shaped(share: float) -> bool:
    """Whether TCP got, of what it can get from a link, what says that the link has its rate."""
    return 0.9 < share < 1.05


def _transfer(sender: int, receiver: int, address: str, size: int) -> float:
    """TCP goodput between two namespaces in bit/s, from the first to the last byte at the receiver."""
    import socket
    import threading

    from testbed.emulation.shaping import in_netns

    def listen() -> socket.socket:
        listener = socket.create_server((address, 0))
        listener.settimeout(10)
        return listener

    server = in_netns(receiver, listen)
    port = server.getsockname()[1]

    def send() -> None:
        client = in_netns(sender, lambda: socket.create_connection((address, port), timeout=10))
        client.sendall(bytes(size))
        client.close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    connection, _ = server.accept()
    connection.settimeout(10)
    first = len(connection.recv(1 << 16))
    started, received = time.monotonic(), 0
    while received + first < size and (piece := connection.recv(1 << 16)):
        received += len(piece)
    seconds = time.monotonic() - started
    thread.join()
    connection.close()
    server.close()
    return received * 8 / seconds


def _netem(net: object) -> Finding:
    from testbed.emulation.shaping import Netem, Shaper, ShapingFailed

    remedy = "load sch_netem (modprobe sch_netem) or go without: `delay: auto` then lets receivers hold messages"
    receiver = net.get("y")  # type: ignore[attr-defined]
    interface = receiver.defaultIntf().name
    with Shaper(receiver.pid) as shaper:
        try:
            shaper.install(interface, TRIAL_RATE_BPS, netem=Netem(0.005))
        except ShapingFailed as error:
            return Finding("netem", False, False, str(error), remedy)
        finally:
            shaper.install(interface, OPEN_BPS)
    return Finding("netem", True, False, "delays can be made by the kernel")


def _knobs(net: object) -> Finding:
    """What each device sets in its network, tried in one."""
    from testbed.emulation.shaping import in_netns
    from testbed.worker.knobs import keep_idle_connections_fast

    refused = in_netns(net.get("y").pid, keep_idle_connections_fast)  # type: ignore[attr-defined]
    return Finding(
        "sysctls", not refused, False, "; ".join(refused) or "each device's network takes its TCP settings",
        "run where /proc/sys can be written, such as a container that allows it; runs go on without and note it",
    )  # fmt: skip


def _open_vswitch() -> Finding:
    from testbed.emulation.ovs import PACKAGE, OpenVSwitch

    with tempfile.TemporaryDirectory(prefix="headroom-doctor-") as folder:
        ovs = OpenVSwitch(Path(folder, "ovs"))
        try:
            ovs.start()
            return Finding("Open vSwitch", True, False, ovs.facts())
        except EnvironmentLacks as error:
            return Finding("Open vSwitch", False, False, str(error), f"apt-get install {PACKAGE}, only for that switch")
        finally:
            ovs.stop()


if __name__ == "__main__":
    from testbed.emulation.capsule import prepare_inner

    prepare_inner()
    trials = {"quick": _trials, "full": _measurements, "netem": _netem_measurements}[sys.argv[1]]
    print(json.dumps([asdict(finding) for finding in trials()]))
    sys.stdout.flush()
