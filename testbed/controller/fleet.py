"""The `Fleet` protocol: how the controller sees whatever runs the devices, and the values that cross the border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from testbed.clock import EmulatedClock
from testbed.topologies.links import UP, Hop, Link
from testbed.traces.model import SeriesKey
from testbed.transport.beats import Heartbeat
from testbed.transport.messages import Command, Event, Span

LinkTarget = Link  # what a link should be, in emulated units; a rate of 0 is an outage


@dataclass(frozen=True)
class DeviceTarget:
    """What a device should be; `memory_bytes` is the enforced budget for weights and KV caches."""

    streaming_Bps: float
    compute_flops: float
    memory_bytes: int
    paused: bool = False


@dataclass(frozen=True)
class TargetState:
    """What the whole fleet should be. Links are keyed by name; in a star a link has its device's name."""

    links: Mapping[str, LinkTarget]
    devices: Mapping[str, DeviceTarget]

    def rate_bps(self, route: Sequence[Hop]) -> float:
        """The lowest rate along a route; a medium that it passes twice carries half of its rate."""
        rates = {hop: self.links[hop[0]].up_bps if hop[1] == UP else self.links[hop[0]].down_bps for hop in route}
        return min(rate / route.count(hop) for hop, rate in rates.items())

    def delay_s(self, route: Sequence[Hop]) -> float:
        """The sum of the delays along a route."""
        directions = [(self.links[name], way) for name, way in route]
        return sum(link.up_delay_s if way == UP else link.down_delay_s for link, way in directions)


@dataclass(frozen=True)
class LinkSample:
    """One direction of one link: what was asked for, what was sent to the kernel, and what the kernel answered."""

    device: str  # the link's name
    direction: str  # up | down
    requested_bps: float
    applied_bps: float
    readback_bps: float | None  # None where no kernel shapes the link
    delay_s: float
    lag_s: float = 0.0
    t_s: float | None = None  # emulated time of the measurement; None: now
    sent_bytes: int | None = None
    sent_frames: int | None = None
    dropped: int | None = None
    backlog: int | None = None


@dataclass(frozen=True)
class DeviceSample:
    """A device's memory as it was found."""

    device: str
    ledger_bytes: int | None
    limit_bytes: int | None
    ballast_bytes: int
    rss_bytes: int | None
    alive: bool
    available_bytes: int | None = None  # what our blocks may use, less what others on the device use


@dataclass(frozen=True)
class HostUsage:
    """How much a host's cores have been used so far, in core seconds of wall time. Only differences mean anything."""

    at_s: float  # monotonic
    cores: int
    idle_s: float
    interrupts_s: float  # spent in interrupts, whose traffic ever they serve
    own_s: float  # by this run
    pressure_s: float | None  # wall seconds in which some process waited for a core; None for a kernel without PSI
    load: float | None  # processes that ran or waited, over the last minute


@dataclass(frozen=True)
class Samples:
    """One measurement of the whole fleet, and at the host below it where there is one."""

    devices: Sequence[DeviceSample]
    links: Sequence[LinkSample]
    host: HostUsage | None = None
    spans: Sequence[Span] = ()  # what simulated devices have done since the last look; workers hand theirs over


@dataclass(frozen=True)
class DeviceLost:
    """A worker process has ended unexpectedly, or was ended because it made no progress."""

    oom_killed: bool  # by the kernel; read from the cgroup
    exit_code: int | None
    hung: str = ""  # the sentence on a worker that made no progress and was killed for that


FleetEvent = Event | DeviceLost


class Fleet(Protocol):
    """The running devices behind one interface."""

    clock: EmulatedClock
    beating: bool  # whether workers send heartbeats
    sample_interval_s: float  # wall seconds between measurements in a run; inf: only where something changes
    stamp_noise_s: float  # wall seconds by which the time stamp of a message may be off
    replayed: frozenset[SeriesKey]  # series that the fleet replays by itself on `clock`, and `apply` leaves alone

    def burst_bits(self, rate_bps: float) -> float:
        """The bits that an idle link of this rate passes at once, before the rate counts."""

    def start(self) -> None:
        """Bring up every device, connected and warm; raises EnvironmentLacks."""

    def apply(self, target: TargetState) -> list[LinkSample]:
        """Make links and devices as the target says; returns the links that changed."""

    def replay_reports(self) -> list[LinkSample]:
        """The changes that the fleet has replayed by itself since the last call; raises what prevents it."""

    def end_replay(self) -> list[LinkSample]:
        """Stop replaying; returns the last reports."""

    def send(self, device: str, command: Command) -> None:
        """Send a command; raises RunFailed when the device is gone."""

    def kill(self, device: str) -> None:
        """End a device's worker at once, if there is one; `events` reports its loss, once."""

    def restart(self, device: str) -> None:
        """Start a new worker in the place of a lost device; its Hello says when it is up."""

    def introduce(self, device: str) -> list[str]:
        """Tell a new worker its conditions, and all workers each other's addresses; returns who answers Connected."""

    def events(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """The events so far, waiting at most `timeout_s` wall seconds for the first one."""

    def beats(self) -> Mapping[str, Heartbeat]:
        """The last heartbeat of each device since the last call."""

    def observe(self) -> Samples:
        """Memory and queues as they are now."""

    def facts(self) -> dict[str, Any]:
        """How the emulation is made (backend, delay, memory enforcement, limits), for the manifest."""

    def oom_kills(self) -> int:
        """How many workers the kernel's out-of-memory killer has killed."""

    def stop(self) -> None:
        """Take everything down. It is safe to call this at any time, and twice."""
