"""The emulated fleet: each device is a Mininet host with shaped links and a memory cgroup.

It runs inside a capsule, and the capsule's end takes the network down. The cgroups lie outside the capsule; the run's
state file names them before they are made.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.controller.fleet import DeviceSample, DeviceTarget, LinkSample, TargetState
from testbed.emulation.ballasts import Ballasts
from testbed.emulation.cgroups import DeviceCgroup, detect
from testbed.emulation.host import streaming_Bps
from testbed.emulation.medium import MEDIUM_RATES, share_medium
from testbed.emulation.memory_limits import memory_changes, memory_limit_bytes, peak_memory_bytes, reserve_bytes
from testbed.emulation.mininet_checks import check_bridge, start_mininet
from testbed.emulation.ovs import USERSPACE_NOTE, OpenVSwitch
from testbed.emulation.process_fleet import ProcessFleet
from testbed.emulation.process_memory import process_rss_bytes
from testbed.emulation.replayer import Replayed, ReplayedLink, Replayer, rate_series
from testbed.emulation.shaping import LACKS_NETEM, Netem, Shaper, ShapingFailed, burst_bits
from testbed.emulation.spawn import end_processes
from testbed.emulation.state_files import StateFile
from testbed.errors import EnvironmentLacks, RunFailed
from testbed.placement.blocks import PAGE_BYTES
from testbed.topologies.links import UP, Hop, Link
from testbed.topologies.shapes import WIFI
from testbed.transport.data import DATA_PORT
from testbed.transport.messages import PathView
from testbed.wire import OUTAGE_BPS

QUOTA_PERIOD_S = 0.01  # much shorter than a token, so that a burst at full speed is short too
QUOTA_NOTE = (
    "compute: quota lets an operation run at this host's full speed until the period's quota is used: short operations "
    "are not slowed; use compute: paced for latencies"
)
LEAST_QUOTA_S = 1.05e-3  # the kernel takes no quota under a millisecond
SECRET_BYTES = 16
SAMPLED_LATE_S = 1.0  # a measurement may find the rate that a trace had so long ago: on a busy host, changes wait
OOM_PATIENCE_S = 1.0  # for a worker's death after a squeeze, and for the kernel's count to appear after it


class MininetFleet(ProcessFleet):
    """Workers in Mininet hosts. `state_file` is the run's, attached; it names what is made outside the capsule."""

    backend = "mininet"

    def __init__(self, *args: Any, state_file: StateFile, **options: Any) -> None:
        super().__init__(*args, **options)
        self._state_file = state_file
        self._mode = detect()
        self._cgroups: dict[str, DeviceCgroup] = {}
        self._ballasts = Ballasts(self._context, {})
        self._baselines: dict[str, tuple[int, int]] = {}  # (anon, usage) bytes of the warm worker
        self._limits: dict[str, tuple[int, int]] = {}  # (as planned, as read back)
        self._shapers: dict[Hop, tuple[Shaper, str]] = {}  # the queue of each direction of a link
        self._shaped: dict[Hop, tuple[float, Netem]] = {}  # as last asked for, in emulated units
        self._series = rate_series(self.experiment)
        self.replayed = frozenset((f"link/{name}", direction) for name, direction in self._series)
        self._replayed_links: dict[Hop, ReplayedLink] = {}
        self._replayer: Replayer | None = None
        self._secret = secrets.token_bytes(SECRET_BYTES)  # on an emulated network anyone can connect to a device
        self._quota = self.experiment.compute == "quota"
        self._host_Bps, self._netem = 0.0, False  # of one core of this host, measured only for quotas
        self._net: Any = None
        self._ovs: OpenVSwitch | None = None
        self._switch = "Linux bridge"
        self._oom_kills = 0
        self._oom_killed_before: dict[str, int] = {}  # device -> processes of its group, before its new worker

    # --- standing up -------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._build_network()
        if self._mode.enforced:
            run_id = self._state_file.current.run_id
            planned = [DeviceCgroup.planned(self._mode, run_id, name, quota=self._quota) for name in self.names]
            self._state_file.record(cgroups=[path for group in planned for path in group.paths()])
            for name in self.names:
                self._cgroups[name] = DeviceCgroup.create(self._mode, run_id, name, quota=self._quota)
        elif self._quota:
            raise EnvironmentLacks(f"compute: quota needs cgroups, and {self._mode.reason}; use compute: paced")
        if self._quota:
            self._host_Bps = streaming_Bps()

    def _build_network(self) -> None:
        from testbed.topologies.mininet_adapter import build_topo

        topology = self.experiment.topology
        switch = self._switch_class()
        self._net = start_mininet(build_topo(topology), switch)
        if self._ovs is not None:
            self._finish_openvswitch(self._ovs)
        else:
            for each in self._net.switches:
                check_bridge(each.name, set(each.intfNames()) - {"lo"})
        if topology.shape == WIFI:
            (access_point,) = self._net.switches
            ((_, air),) = topology.interfaces.values()
            share_medium(air, sorted(set(access_point.intfNames()) - {"lo"}))
        inside = {name: Shaper(self._net.get(name).pid) for name in self.names}
        ports = Shaper()  # of the switches, which are in this namespace
        cables = {cable.name: cable.link for cable in topology.links}
        for hop, (node, interface) in topology.interfaces.items():
            self._shapers[hop] = (inside.get(node, ports), interface)
            if hop in self._series:
                pid = self._net.get(node).pid if node in inside else None
                rate = cables[hop[0]].up_bps if hop[1] == UP else cables[hop[0]].down_bps
                self._replayed_links[hop] = ReplayedLink(hop, pid, interface, self._series[hop], rate)

    def _switch_class(self) -> Any:
        """The class of Mininet's switches, with its daemons started; raises EnvironmentLacks."""
        from mininet.node import OVSBridge
        from mininet.nodelib import LinuxBridge

        if self.experiment.switch == "linuxbridge" or not self.experiment.topology.switches:
            return LinuxBridge
        self._ovs = OpenVSwitch(self._sockets / "ovs")
        self._ovs.start()
        self._switch = self._ovs.facts()
        return functools.partial(OVSBridge, datapath=self._ovs.datapath)

    def _finish_openvswitch(self, ovs: OpenVSwitch) -> None:
        ovs.check(self.experiment.topology.switches)
        if ovs.datapath == "user":  # it forwards frames as they are, so checksums must be complete
            for name in self.names:
                complaint = self._net.get(name).cmd(f"ethtool -K {name}-eth0 tx off >/dev/null || echo it failed")
                if complaint.strip():
                    raise EnvironmentLacks(
                        f"the checksum offload of {name}-eth0 cannot be switched off, which Open vSwitch needs here "
                        f"(ethtool: {' '.join(complaint.split())}); use switch: linuxbridge"
                    )

    def network_pids(self) -> dict[str, int]:
        """A process in each device's network namespace, by its pid in the capsule."""
        return {name: self._net.get(name).pid for name in self.names}

    def _place(self, device: str) -> Mapping[str, Any]:
        host = self._net.get(device)
        group = self._cgroups.get(device)
        return {
            "bind": f"tcp://{host.IP()}:{DATA_PORT}",
            "secret": self._secret,
            "netns_pid": host.pid,
            "cgroup_procs": str(group.memory_path / "cgroup.procs") if group else None,
        }

    def _all_started(self) -> None:
        changing = {name: group for name, group in self._cgroups.items() if memory_changes(self.experiment, name)}
        self._ballasts = Ballasts(self._context, changing)
        self._baselines = {device: (process_rss_bytes(pid) or 0, 0) for device, pid in self._pids.items()}
        self._baselines |= _settled(self._cgroups)
        for device, group in self._cgroups.items():
            planned = self._baselines[device][1] + memory_limit_bytes(self.experiment, device)
            planned -= planned % PAGE_BYTES
            self._limits[device] = (planned, group.set_limit(planned))

    def restart(self, device: str) -> None:
        """See `Fleet.restart`. The kernel may have killed the device's ballast, too."""
        end_processes([self._processes[device]])
        self._ballasts.renew(device)
        super().restart(device)

    def _warm_again(self, device: str) -> None:
        group, warm = self._cgroups.get(device), process_rss_bytes(self._pids.get(device, 0)) or 0
        if group is not None:
            warm = group.anon() - self._ballasts.held_bytes(device)
            self._oom_killed_before[device] = group.oom_kills()
        self._baselines[device] = (max(0, warm), 0)

    # --- applying ----------------------------------------------------------------------------------------

    def _apply_links(self, target: TargetState) -> list[LinkSample]:
        first = not self._shaped
        if first:
            self._netem = self._install(target)
        changed: list[LinkSample] = []
        dilation = self.experiment.dilation
        for hop, (shaper, interface) in self._shapers.items():
            rate, netem = wanted = _direction(target, hop)
            before = self._shaped.get(hop)
            replayed = before is not None and hop in self._replayed_links
            if before is not None and replayed:
                rate, netem = wanted = before[0], netem  # the replayer sets its rate
            if before == wanted:
                continue
            started = finished = time.monotonic()
            applied_bps, readback_bps = max(OUTAGE_BPS, rate), None
            if not replayed:
                applied = shaper.change(interface, rate / dilation)
                finished = applied.finished_s
                applied_bps, readback_bps = applied.applied_bps * dilation, applied.readback_bps * dilation
            if before is None or before[1] != netem:
                if self._netem:
                    shaper.change_netem(interface, self._dilated(netem))
                elif netem.jitter_s or netem.loss:
                    raise EnvironmentLacks(LACKS_NETEM.format(f"the loss or jitter of link {hop[0]}"))
            self._shaped[hop] = wanted
            lag_s = self.clock.duration(finished - started)
            changed.append(LinkSample(*hop, rate, applied_bps, readback_bps, netem.delay_s, lag_s))
        if first and self._replayed_links:
            self._replayer = Replayer(self._context, list(self._replayed_links.values()), self.clock)
        return changed

    def replay_reports(self) -> list[LinkSample]:
        """The rates that were replayed since the last call."""
        return self._replayed(self._replayer.reports()) if self._replayer else []

    def end_replay(self) -> list[LinkSample]:
        """Leave all rates as they are from now on."""
        return self._replayed(self._replayer.end()) if self._replayer else []

    def _replayed(self, changes: Sequence[Replayed]) -> list[LinkSample]:
        samples = []
        for made in changes:
            netem = self._shaped[made.hop][1]
            self._shaped[made.hop] = (made.requested_bps, netem)
            samples.append(
                LinkSample(
                    *made.hop, made.requested_bps, made.applied_bps, made.readback_bps, netem.delay_s,
                    lag_s=self.clock.duration(made.late_s), t_s=self.clock.at(made.applied_s),
                )
            )  # fmt: skip
        return samples

    def _dilated(self, netem: Netem) -> Netem:
        dilation = self.experiment.dilation
        return Netem(netem.delay_s * dilation, netem.jitter_s * dilation, netem.loss)

    def _install(self, target: TargetState) -> bool:
        """Put a queue on every link; returns whether netem makes the delay."""
        wanted, needed = self.experiment.delay, self.experiment.needs_netem
        netem = wanted in ("auto", "netem")
        for hop, (shaper, interface) in self._shapers.items():
            rate, below = _direction(target, hop)
            rate /= self.experiment.dilation
            if netem:
                try:
                    link = self._replayed_links.get(hop)
                    most = link.most_bps / self.experiment.dilation if link else 0.0
                    shaper.install(interface, rate, netem=self._dilated(below), most_bps=most)
                    continue
                except ShapingFailed as error:
                    if wanted == "netem" or needed:
                        what = f"the loss or jitter of {needed}" if needed else "delay: netem"
                        raise EnvironmentLacks(f"{LACKS_NETEM.format(what)} ({error})") from error
                    netem = False
            shaper.install(interface, rate)
        return netem

    def _apply_compute(self, device: str, target: DeviceTarget) -> None:
        """Set the quota: the device's share of what one core of this host streams from memory."""
        if self._quota:
            share = target.streaming_Bps / self._host_Bps / self.experiment.dilation
            self._cgroups[device].set_quota(share, max(QUOTA_PERIOD_S, LEAST_QUOTA_S / share))

    def _apply_memory(self, device: str, budget_bytes: int) -> None:
        try:
            self._ballasts.resize(device, peak_memory_bytes(self.experiment, device) - budget_bytes)
        except RunFailed:
            # While the worker that it squeezed out is still dying, the kernel may kill the ballast as well.
            self._processes[device].join(OOM_PATIENCE_S)
            if self._alive(device) or not self._cgroups[device].oom_kills():
                raise

    def _path(self, target: TargetState, sender: str, receiver: str) -> PathView:
        return PathView(0.0, 0.0) if self._netem else super()._path(target, sender, receiver)

    def _going_on(self) -> dict[str, int]:
        ballasts = self._ballasts.pids().items()
        helpers = {f"the ballast of device {name}": pid for name, pid in ballasts if name not in self._lost}
        if self._replayer is not None and self._replayer.going_on:
            helpers["the replayer, which changes the links' rates,"] = self._replayer.process.pid
        return super()._going_on() | {name: pid for name, pid in helpers.items() if pid is not None}

    def burst_bits(self, rate_bps: float) -> float:
        """What the bucket of an idle link holds."""
        return burst_bits(rate_bps / self.experiment.dilation)

    # --- looking -----------------------------------------------------------------------------------------

    def _sample_device(self, device: str, alive: bool) -> DeviceSample:
        group, rss = self._cgroups.get(device), process_rss_bytes(self._pids.get(device, 0))
        if group is None:
            ledger = None if rss is None else max(0, rss - self._baselines.get(device, (0, 0))[0])
            return DeviceSample(device, ledger, None, 0, rss, alive, self._told_budget(device))
        ballast = self._ballasts.held_bytes(device)
        ledger = max(0, group.anon() - self._baselines[device][0] - ballast) if alive else None
        left = peak_memory_bytes(self.experiment, device) - ballast
        return DeviceSample(device, ledger, group.limit(), ballast, rss, alive, left)

    def _sample_links(self) -> list[LinkSample]:
        samples = []
        dilation = self.experiment.dilation
        for hop, (shaper, interface) in self._shapers.items():
            stats, now_s = shaper.stats(interface), self.clock.now()  # the replayer may change it any time
            rate, netem = self._shaped[hop]
            found = stats.rate_bps * dilation
            rate = self._rate_found(hop, found, rate)
            samples.append(
                LinkSample(
                    *hop, rate, max(OUTAGE_BPS, rate), found, netem.delay_s, t_s=now_s,
                    sent_bytes=stats.sent_bytes, sent_frames=stats.sent_packets, dropped=stats.dropped,
                    backlog=stats.backlog_bytes,
                )
            )  # fmt: skip
        return samples

    def _rate_found(self, hop: Hop, found_bps: float, known_bps: float) -> float:
        """The rate that a measured link was asked for; the report of a change just made may still be on its way."""
        link, now = self._replayed_links.get(hop), self.clock.trace_now()
        if link is not None:
            nearest = 8 * self.experiment.dilation  # a queue counts whole bytes per second, and at least one
            for rate in link.rates(now - SAMPLED_LATE_S, now):
                if abs(max(OUTAGE_BPS, rate) - found_bps) <= nearest:
                    return rate
        return known_bps

    def _was_oom_killed(self, device: str) -> bool:
        group = self._cgroups.get(device)
        if group is None or not group.reached_limit():
            return False
        before, deadline = self._oom_killed_before.get(device, 0), time.monotonic() + OOM_PATIENCE_S
        while not (killed := group.oom_kills() - before) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._oom_kills += killed > 0  # once, because the group's own count may include its ballast
        return killed > 0

    def facts(self) -> dict[str, Any]:
        """How this fleet emulates, as found while it was up, for the manifest."""
        enforced = f"enforced by the kernel ({self._mode.reason})"
        refused = f"not enforced by the kernel: {self._mode.reason}; the workers' own ledgers hold the budget instead"
        notes = [QUOTA_NOTE] if self._quota else []
        notes += [USERSPACE_NOTE] if self._ovs is not None and self._ovs.datapath == "user" else []
        notes += self._notes()
        return {
            "backend": self.backend,
            "rates": MEDIUM_RATES if self.experiment.topology.shape == WIFI else "TBF on every link, each direction",
            "replay": self._replayer.facts() if self._replayer else "by the controller",
            "delay": "netem" if self._netem else "transport",
            "switch": self._switch,
            "memory": enforced if self._mode.enforced else refused,
            "memory_limits": {name: list(limits) for name, limits in self._limits.items()},
            "reserve_bytes": reserve_bytes(self.experiment),
            "baseline_bytes": {name: baseline[0] for name, baseline in self._baselines.items()},
            "notes": notes,
        }

    def oom_kills(self) -> int:
        """Workers killed by the kernel's out-of-memory killer, from the cgroups' own counters."""
        return self._oom_kills

    def _release(self) -> None:
        if self._replayer is not None:
            self._replayer.stop()
        self._ballasts.stop()
        for group in self._cgroups.values():
            group.kill_and_remove()
        self._cgroups = {}
        if self._ovs is not None:
            self._ovs.stop()


def _settled(groups: Mapping[str, DeviceCgroup], patience_s: float = 0.5) -> dict[str, tuple[int, int]]:
    """(anon, usage) of every group once two readings agree, because the kernel folds its per-CPU counts in lazily."""
    deadline = time.monotonic() + patience_s
    found = {device: (group.anon(), group.usage()) for device, group in groups.items()}
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        following = {device: (group.anon(), group.usage()) for device, group in groups.items()}
        if following == found:
            break
        found = following
    return found


def _direction(target: TargetState, hop: Hop) -> tuple[float, Netem]:
    """What one direction of a link should be, in emulated units: its rate, and what netem adds below it."""
    link: Link = target.links[hop[0]]
    if hop[1] == UP:
        return link.up_bps, Netem(link.up_delay_s, link.up_jitter_s, link.up_loss)
    return link.down_bps, Netem(link.down_delay_s, link.down_jitter_s, link.down_loss)
