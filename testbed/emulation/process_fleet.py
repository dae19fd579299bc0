"""What both fleets of real processes share: the workers, their control sockets, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from testbed.clock import EmulatedClock
from testbed.controller.fleet import (
    DeviceLost,
    DeviceSample,
    DeviceTarget,
    FleetEvent,
    LinkSample,
    Samples,
    TargetState,
)
from testbed.controller.suspects import given_up_after_s
from testbed.emulation.host_usage import host_usage
from testbed.emulation.open_files import allow_open_files
from testbed.emulation.process_memory import private_bytes
from testbed.emulation.processes import has_ended, is_stopped
from testbed.emulation.refusals import Refusals
from testbed.emulation.runtime_folder import socket_path
from testbed.emulation.spawn import FORKSERVER, end_processes, exit_code, forkserver, forkserver_pid, start_worker
from testbed.emulation.stall_detector import StallDetector, Stalled
from testbed.emulation.worker_configs import worker_configs
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed
from testbed.experiment.schema import Experiment
from testbed.traces.model import SeriesKey
from testbed.transport.beats import BeatHub, Heartbeat
from testbed.transport.control import ControlHub
from testbed.transport.messages import (
    Command,
    Connect,
    Connected,
    Failed,
    Hello,
    PathView,
    SetBudget,
    SetDevice,
    SetPaths,
    Stop,
)
from testbed.worker.config import WorkerConfig

START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 2.0
WORKER_PATIENCE = 1.5  # times what it takes until a silent device is lost
DEATH_PATIENCE_S = 1.0  # for a process to have ended whose sockets are closed
STAMP_NOISE_S = 1e-4  # a message is stamped when a worker sends it, and wakes and sockets take about that long
SAMPLE_INTERVAL_S = 0.5  # wall seconds between looks at memory and queues while tokens are generated


class ProcessFleet(ABC):
    """Workers as processes. A subclass says where they live and what shapes their links.

    `sockets` is the folder for control sockets; `positions` is the longest sequence of the run.
    """

    backend: str
    replayed: frozenset[SeriesKey] = frozenset()
    beating = True
    sample_interval_s = SAMPLE_INTERVAL_S
    stamp_noise_s = STAMP_NOISE_S

    def __init__(self, experiment: Experiment, sockets: Path, positions: int) -> None:
        self.experiment = experiment
        self.clock = EmulatedClock(experiment.dilation)
        self.names = [device.name for device in experiment.topology.devices]
        self._sockets = sockets
        self._positions = positions
        self._hub: ControlHub | None = None
        self._beats: BeatHub | None = None
        allow_open_files(len(self.names))
        self._context = forkserver()
        self._processes: dict[str, ForkServerProcess] = {}
        self._lost: set[str] = set()
        self._pids: dict[str, int] = {}
        self._configs: dict[str, WorkerConfig] = {}
        self._addresses: dict[str, str] = {}  # of the data sockets of all workers that are up
        self._stalls = StallDetector()
        # A worker's silence tells of it sooner, but only while tokens are generated.
        self._worker_stalls = StallDetector(WORKER_PATIENCE * given_up_after_s(experiment))
        self._refusals = Refusals(self.names)
        self._dropped = 0  # control frames that no device sent
        self.idle_private_bytes: list[int] = []  # of each worker once it is up and holds nothing
        self._target: TargetState | None = None
        self._pending: list[tuple[str, FleetEvent]] = []

    # --- for a subclass to define ------------------------------------------------------------------------

    @abstractmethod
    def _prepare(self) -> None:
        """Bring up what must be there before workers start."""

    @abstractmethod
    def _place(self, device: str) -> Mapping[str, Any]:
        """One device's fields of WorkerConfig: bind, secret, netns_pid, cgroup_procs."""

    @abstractmethod
    def _all_started(self) -> None:
        """Called when every worker is up and warm, before any holds anything."""

    @abstractmethod
    def _warm_again(self, device: str) -> None:
        """Called when a device's new worker is up and warm, before it holds anything."""

    @abstractmethod
    def _apply_links(self, target: TargetState) -> list[LinkSample]:
        """Make the links as the target says; returns those that changed."""

    @abstractmethod
    def _apply_memory(self, device: str, budget_bytes: int) -> None:
        """Give the device this much memory, by whatever enforces it, before its worker is told."""

    def _apply_compute(self, device: str, target: DeviceTarget) -> None:
        """Set what makes the device slow besides its worker's pacing; by default there is nothing."""
        return

    @abstractmethod
    def _sample_device(self, device: str, alive: bool) -> DeviceSample:
        """The device's memory now."""

    @abstractmethod
    def _sample_links(self) -> list[LinkSample]:
        """The links' queues now."""

    @abstractmethod
    def _was_oom_killed(self, device: str) -> bool:
        """Whether the kernel's out-of-memory killer ended this device's worker."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """See `Fleet.facts`."""

    @abstractmethod
    def oom_kills(self) -> int:
        """See `Fleet.oom_kills`."""

    @abstractmethod
    def _release(self) -> None:
        """Take down what `_prepare` brought up."""

    # --- Fleet -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring up every device, connected; raises EnvironmentLacks with the remedy."""
        self._sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._hub = ControlHub(self._sockets, self.names)
        beats = {name: str(socket_path(self._sockets, f"beats-{n}")) for n, name in enumerate(self.names)}
        self._beats = BeatHub(beats)
        self._prepare()
        self._configs = worker_configs(self.experiment, self._sockets, beats, self._positions, self._place)
        for name in self.names:
            self._processes[name] = start_worker(self._context, self._configs[name])
        self._gather(Hello)
        for name in self.names:
            self._tell(name, self._peers_of(name))
        # Wait for all: a worker's first message may reach a peer before that peer has read its own Connect.
        self._gather(Connected)
        self._all_started()
        self.idle_private_bytes = [private_bytes(pid) for pid in self._pids.values()]

    def _peers_of(self, device: str) -> Connect:
        return Connect({peer: address for peer, address in self._addresses.items() if peer != device})

    def _gather(self, kind: type[Hello] | type[Connected]) -> None:
        """Wait for one event of a kind from every device while starting; raises what keeps a worker from starting."""
        found: set[str] = set()
        deadline = time.monotonic() + START_PATIENCE_S
        while len(found) < len(self.names):
            for name, event in self.events(0.5):
                if isinstance(event, kind):
                    found.add(name)
                elif isinstance(event, Failed):
                    raise ConfigError(event.reason) if event.configuration else RunFailed(event.reason)
                elif isinstance(event, DeviceLost):
                    raise EnvironmentLacks(
                        f"the worker of device {name} ended with code {event.exit_code} while starting; "
                        "`testbed doctor` tells what this machine lacks"
                    )
            if time.monotonic() > deadline:
                missing = ", ".join(sorted(set(self.names) - found))
                raise EnvironmentLacks(f"the workers of {missing} did not start within {START_PATIENCE_S:.0f} s")

    def apply(self, target: TargetState) -> list[LinkSample]:
        """Apply the links first, then each device: its memory through what enforces it, then in the worker's ledger."""
        before, self._target = self._target, target
        changed: list[LinkSample] = []
        if before is None or before.links != target.links:
            changed = self._apply_links(target)
            self._tell_paths(target, before)
        for name, device in target.devices.items():
            old = before.devices[name] if before is not None else None
            if old is None or (old.streaming_Bps, old.compute_flops) != (device.streaming_Bps, device.compute_flops):
                self._apply_compute(name, device)
                self._tell(name, SetDevice(device.streaming_Bps, device.compute_flops))
            if old is None or old.memory_bytes != device.memory_bytes:
                self._apply_memory(name, device.memory_bytes)
                self._tell(name, SetBudget(device.memory_bytes))
            if device.paused != (old is not None and old.paused):
                self._signal(name, signal.SIGSTOP if device.paused else signal.SIGCONT)
        return changed

    def replay_reports(self) -> list[LinkSample]:
        """See `Fleet.replay_reports`; nothing by default."""
        return []

    end_replay = replay_reports

    def send(self, device: str, command: Command) -> None:
        """See `Fleet.send`."""
        assert self._hub is not None
        self._hub.send(device, command)

    def kill(self, device: str) -> None:
        """See `Fleet.kill`. A worker that a signal has stopped ends too."""
        if self._alive(device):
            self._processes[device].kill()

    def restart(self, device: str) -> None:
        """See `Fleet.restart`. The worker gets the old one's place: its namespace, control group and limit."""
        assert self._hub is not None
        end_processes([self._processes[device]])  # it is dying, and must let go of its socket
        self._lost.discard(device)
        self._hub.expect(device)
        self._processes[device] = start_worker(self._context, self._configs[device])

    def introduce(self, device: str) -> list[str]:
        """See `Fleet.introduce`."""
        assert self._target is not None
        self._warm_again(device)
        target = self._target.devices[device]
        self._tell(device, SetDevice(target.streaming_Bps, target.compute_flops))
        self._tell(device, SetBudget(target.memory_bytes))
        self._tell(device, self._paths_to(self._target, device))
        told = sorted(self._addresses)
        for name in told:
            self._tell(name, self._peers_of(name))
        return told

    def events(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """Control events, and workers that have ended; raises RunFailed for a process that makes no progress."""
        assert self._hub is not None
        found: list[tuple[str, FleetEvent]] = [*self._pending, *self._hub.poll(0)]
        self._pending = []
        if not found:
            sentinels: list[Connection | int] = [p.sentinel for n, p in self._processes.items() if n not in self._lost]
            wait([self._hub, *sentinels], max(0.0, timeout_s))  # type: ignore[list-item]
            found = list(self._hub.poll(0))
        for name, event in found:
            self._refusals.hear(name, event)
            if isinstance(event, Hello):
                self._pids[name], self._addresses[name] = event.pid, event.address
        ended = [name for name in self._processes if name not in self._lost and not self._processes[name].is_alive()]
        for name in ended:
            found += self._hub.poll(0)  # its last messages come first
            self._mark_lost(name)
            found.append((name, DeviceLost(self._was_oom_killed(name), exit_code(self._processes[name]))))
        if not ended:  # else a process that ended with the lost device would be named instead
            found += self._stalled()
        return found

    def _stalled(self) -> list[tuple[str, FleetEvent]]:
        """Workers that are lost although no exit code says so; raises Stalled for any other process.

        On a busy host, the last threads of a killed worker can take seconds to end; only then is its exit code known.
        A worker that a signal has stopped is killed.
        """
        try:
            self._stalls.check(self._going_on())
            self._worker_stalls.check(self._workers())
        except Stalled as error:
            hung = [name for name, pid in self._pids.items() if error.name == _worker(name) and is_stopped(pid)]
            for name in hung:
                self.kill(name)
                self._mark_lost(name)
            if hung:
                return [(name, DeviceLost(False, None, hung=str(error))) for name in hung]
            killed = [name for name, pid in self._pids.items() if has_ended(pid) and self._was_oom_killed(name)]
            if not killed:
                raise
            for name in killed:
                self._mark_lost(name)
            return [(name, DeviceLost(True, -signal.SIGKILL)) for name in killed]
        return []

    def _mark_lost(self, device: str) -> None:
        self._lost.add(device)
        self._addresses.pop(device, None)
        self._pids.pop(device, None)

    def _going_on(self) -> dict[str, int]:
        """The processes that must make progress now, by their names in a sentence."""
        pid = forkserver_pid()
        return {} if pid is None else {FORKSERVER: pid}

    def _workers(self) -> dict[str, int]:
        """The workers that must make progress now, by their names in a sentence."""
        target = self._target
        idle = self._lost | {name for name in self.names if target is not None and target.devices[name].paused}
        pids = {name: process.pid for name, process in self._processes.items() if name not in idle}
        return {_worker(name): pid for name, pid in pids.items() if pid is not None}

    def burst_bits(self, rate_bps: float) -> float:
        """The bits that an idle link of this rate passes at once; none where a worker imposes it."""
        return 0.0

    def _told_budget(self, device: str) -> int | None:
        """The budget that the device's own ledger holds, where no kernel does."""
        return None if self._target is None else self._target.devices[device].memory_bytes

    def beats(self) -> Mapping[str, Heartbeat]:
        """See `Fleet.beats`."""
        return self._beats.take() if self._beats is not None else {}

    def observe(self) -> Samples:
        """Memory, queues and the host's cores as they are now."""
        devices = [self._sample_device(name, self._alive(name)) for name in self.names]
        return Samples(devices, self._sample_links(), host_usage())

    def stop(self) -> None:
        """End every worker, then what was brought up for them."""
        for name in self._processes:
            with contextlib.suppress(RunFailed):  # it never came up, or is gone
                self.send(name, Stop())
            if self._target is not None and self._target.devices[name].paused:
                self._signal(name, signal.SIGCONT)
        end_processes(self._processes.values(), STOP_PATIENCE_S)
        self._processes = {}
        self._release()
        if self._hub is not None:
            self._dropped = self._hub.dropped
            self._hub.close()
            self._hub = None
        if self._beats is not None:
            self._beats.close()
            self._beats = None

    def network_pids(self) -> dict[str, int]:
        """A process in each device's network namespace, for `testbed exec`."""
        return dict(self._pids)

    # --- inside ------------------------------------------------------------------------------------------

    def _notes(self) -> list[str]:
        return self._refusals.notes(self._hub.dropped if self._hub is not None else self._dropped)

    def _signal(self, device: str, number: signal.Signals) -> None:
        """Stop or continue a worker. One that has died is left alone; an event reports its loss."""
        if self._alive(device) and (pid := self._processes[device].pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _alive(self, device: str) -> bool:
        return device in self._processes and device not in self._lost and self._processes[device].is_alive()

    def _tell(self, device: str, command: Command) -> None:
        """Send to a worker that may just have died, as an event reports; one that is not up is told when it is."""
        if device not in self._addresses:
            return
        try:
            self.send(device, command)
        except RunFailed:
            if device in self._processes:
                self._processes[device].join(DEATH_PATIENCE_S)  # its sockets close before it has ended
            if self._alive(device):
                raise

    def _tell_paths(self, target: TargetState, before: TargetState | None) -> None:
        """Tell every worker the delays by which it must hold messages, where no kernel does."""
        for name in self.names:
            if before is None or self._paths_to(before, name) != self._paths_to(target, name):
                self._tell(name, self._paths_to(target, name))

    def _paths_to(self, target: TargetState, device: str) -> SetPaths:
        paths = {peer: self._path(target, peer, device) for peer in self.names if peer != device}
        return SetPaths(paths, self._imposed_uplink(target, device))

    def _path(self, target: TargetState, sender: str, receiver: str) -> PathView:
        route, dilation = self.experiment.topology.route(sender, receiver), self.experiment.dilation
        overlap = target.delay_s(route[:1]) if route.count(route[0]) > 1 else 0.0
        return PathView(target.delay_s(route) * dilation, 0.0, overlap * dilation)

    def _imposed_uplink(self, target: TargetState, device: str) -> float:
        return 0.0


def _worker(device: str) -> str:
    """A device's worker in a sentence."""
    return f"device {device}: its worker"
