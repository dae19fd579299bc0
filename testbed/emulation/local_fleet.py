"""The local fleet: the same workers as plain processes, for machines on which no capsule can be made.

Workers talk over Unix sockets in the run's folder, which no other user can enter, and never over a network. Rates and
delays are imposed in software: the sender stamps when a message would have left its uplink, and the receiver holds it
until it would have passed its downlink. The worker's own ledger holds the memory budget; no kernel enforces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.controller.fleet import DeviceSample, LinkSample, TargetState
from testbed.emulation.process_fleet import ProcessFleet
from testbed.emulation.process_memory import process_rss_bytes
from testbed.emulation.runtime_folder import socket_path
from testbed.errors import ConfigError
from testbed.transport.messages import PathView
from testbed.wire import OUTAGE_BPS


class LocalFleet(ProcessFleet):
    """Workers as plain processes."""

    backend = "local"

    def _prepare(self) -> None:
        topology = self.experiment.topology
        if topology.shape != "star":
            raise ConfigError(
                f"topology {topology.name} has the shape {topology.shape}, but the local backend imposes links in "
                "software and can only do so for a star; use --backend mininet"
            )
        if self.experiment.needs_netem:
            raise ConfigError(
                f"link {self.experiment.needs_netem} has loss or jitter, which the local backend cannot make; use "
                "--backend mininet where the kernel has netem"
            )
        self._baselines: dict[str, int] = {}

    def _place(self, device: str) -> Mapping[str, Any]:
        path = socket_path(self._sockets, f"data-{self.names.index(device)}")
        return {"bind": f"ipc://{path}", "secret": None, "netns_pid": None, "cgroup_procs": None}

    def _all_started(self) -> None:
        self._baselines = {device: process_rss_bytes(pid) or 0 for device, pid in self._pids.items()}

    def _warm_again(self, device: str) -> None:
        self._baselines[device] = process_rss_bytes(self._pids.get(device, 0)) or 0

    def _apply_links(self, target: TargetState) -> list[LinkSample]:
        self._links = target.links
        return self._sample_links()

    def _apply_memory(self, device: str, budget_bytes: int) -> None:
        return  # the caller tells the worker, whose ledger holds the budget

    def _sample_device(self, device: str, alive: bool) -> DeviceSample:
        rss = process_rss_bytes(self._pids[device]) if alive and device in self._pids else None
        ledger = None if rss is None else max(0, rss - self._baselines.get(device, 0))
        return DeviceSample(device, ledger, None, 0, rss, alive, self._told_budget(device))

    def _sample_links(self) -> list[LinkSample]:
        samples = []
        for name, link in self._links.items():
            samples.append(LinkSample(name, "up", link.up_bps, link.up_bps, None, link.up_delay_s))
            samples.append(LinkSample(name, "down", link.down_bps, link.down_bps, None, link.down_delay_s))
        return samples

    def _was_oom_killed(self, device: str) -> bool:
        return False

    def facts(self) -> dict[str, Any]:
        """How this fleet emulates, for the manifest."""
        return {
            "backend": self.backend,
            "rates": "imposed by sender and receiver in software, on Unix sockets",
            "delay": "transport",
            "memory": "not enforced by a kernel: held against the worker's own ledger",
            "notes": self._notes(),
        }

    def oom_kills(self) -> int:
        """None: no kernel enforces memory here."""
        return 0

    def _release(self) -> None:
        return

    def _path(self, target: TargetState, sender: str, receiver: str) -> PathView:
        """The receiver learns of the sender's outage, too: it holds what is on its way."""
        path, up_bps = super()._path(target, sender, receiver), target.links[sender].up_bps
        down_bps = target.links[receiver].down_bps if up_bps > OUTAGE_BPS else OUTAGE_BPS
        return PathView(path.delay_s, max(down_bps, OUTAGE_BPS) / self.experiment.dilation)

    def _imposed_uplink(self, target: TargetState, device: str) -> float:
        return max(target.links[device].up_bps, OUTAGE_BPS) / self.experiment.dilation
