"""The seam between the controller and whatever runs the devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from testbed.clock import EmulatedClock
from testbed.topologies.links import UP, Hop, Link
from testbed.traces.model import SeriesKey
from testbed.transport.messages import Command, Event

LinkTarget = Link  # what a link should be, in emulated units; rate 0 is an outage


@dataclass(frozen=True)
class DeviceTarget:
    """What a device should be; `memory_bytes` is the enforced budget for weights and KV caches."""

    streaming_Bps: float
    compute_flops: float
    memory_bytes: int
    paused: bool = False


@dataclass(frozen=True)
class TargetState:
    """What the whole fleet should be; links by name, which in a star are their devices'."""

    links: Mapping[str, LinkTarget]
    devices: Mapping[str, DeviceTarget]

    def rate_bps(self, route: Sequence[Hop]) -> float:
        """The least rate along a route."""
        directions = [(self.links[name], way) for name, way in route]
        return min(link.up_bps if way == UP else link.down_bps for link, way in directions)

    def delay_s(self, route: Sequence[Hop]) -> float:
        """The sum of the delays along a route."""
        directions = [(self.links[name], way) for name, way in route]
        return sum(link.up_delay_s if way == UP else link.down_delay_s for link, way in directions)


@dataclass(frozen=True)
class LinkSample:
    """One direction of one link as found: what was asked, what was sent to the kernel, what it answered."""

    device: str  # the link's name
    direction: str  # up | down
    requested_bps: float
    applied_bps: float
    readback_bps: float | None  # None where no kernel shapes the link
    delay_s: float
    lag_s: float = 0.0
    t_s: float | None = None  # emulated time it is of; None: now
    sent_bytes: int | None = None
    dropped: int | None = None
    backlog: int | None = None


@dataclass(frozen=True)
class DeviceSample:
    """A device's memory as found."""

    device: str
    ledger_bytes: int | None
    limit_bytes: int | None
    ballast_bytes: int
    rss_bytes: int | None
    alive: bool


@dataclass(frozen=True)
class HostUsage:
    """What a host's cores have been used for so far, in core seconds of wall time; only differences mean anything."""

    at_s: float  # monotonic
    cores: int
    idle_s: float
    interrupts_s: float  # of whoever's traffic
    own_s: float  # by this run
    pressure_s: float | None  # wall seconds in which some process waited for a core; None for a kernel without PSI
    load: float | None  # processes that ran or waited, over the last minute


@dataclass(frozen=True)
class Samples:
    """One look at the whole fleet, and at the host below it where there is one."""

    devices: Sequence[DeviceSample]
    links: Sequence[LinkSample]
    host: HostUsage | None = None


@dataclass(frozen=True)
class DeviceLost:
    """A worker process ended that should not have."""

    oom_killed: bool  # by the kernel's out-of-memory killer, read from the cgroup
    exit_code: int | None


FleetEvent = Event | DeviceLost


class Fleet(Protocol):
    """The running devices behind one interface."""

    clock: EmulatedClock
    sample_interval_s: float  # wall seconds between looks while something goes on; inf: only where something changes
    replayed: frozenset[SeriesKey]  # what of the traces the fleet replays by itself on `clock`; `apply` leaves it alone

    def start(self) -> None:
        """Bring up every device, connected and warm; raises EnvironmentLacks."""

    def apply(self, target: TargetState) -> list[LinkSample]:
        """Make links and devices so; returns the links that changed."""

    def replay_reports(self) -> list[LinkSample]:
        """What the fleet has replayed by itself since the last call; raises what keeps it from going on."""

    def end_replay(self) -> list[LinkSample]:
        """Replay nothing more; returns the last reports."""

    def send(self, device: str, command: Command) -> None:
        """Send a command; raises RunFailed when the device is gone."""

    def events(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """What has happened, waiting at most `timeout_s` for the first."""

    def observe(self) -> Samples:
        """Memory and queues as they are now."""

    def facts(self) -> dict[str, Any]:
        """How the emulation is made (backend, delay, memory enforcement, limits), for the manifest."""

    def oom_kills(self) -> int:
        """How many workers the kernel's out-of-memory killer has killed."""

    def stop(self) -> None:
        """Take everything down; safe to call at any time, twice."""
