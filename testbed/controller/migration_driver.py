"""Carries out one change of placement on a fleet: instructions become commands, and events become steps.

`migration` holds the rules; this module only sends, waits and watches the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from testbed.controller.fleet import DeviceLost, Fleet, FleetEvent
from testbed.controller.migration import AbortOn, CommitOn, Instruction, Migration, PrepareOn, TransferFrom
from testbed.errors import RunFailed
from testbed.placement.plan import Plan
from testbed.transport.messages import (
    Abort,
    Aborted,
    Arrival,
    Arrived,
    Commit,
    Committed,
    Incoming,
    Prepare,
    Prepared,
    Refused,
    Sent,
    Transfer,
)

Wait = Callable[[float], list[tuple[str, FleetEvent]]]  # gives the events that come within so many wall seconds


@dataclass
class MigrationResult:
    """How one migration ended."""

    migration: Migration
    arrivals: dict[str, Arrival] = field(default_factory=dict)  # by the block's name
    started_s: float = 0.0  # wall seconds
    finished_s: float = 0.0
    losses: list[tuple[str, DeviceLost]] = field(default_factory=list)


def drive_migration(
    fleet: Fleet,
    migration: Migration,
    plan: Plan,
    *,
    length: int,
    shipped: bool,
    storage_Bps: Mapping[str, float],
    timeout_s: float,
    wait: Wait,
) -> MigrationResult:
    """Run a migration until it is done or aborted, or until a device is lost. `length` counts cached positions.

    Transfers that take longer than `timeout_s` wall seconds are aborted, and the old epoch goes on. Raises RunFailed
    when a worker does not answer the abort, or the commit, for as long again.
    """
    result = MigrationResult(migration, started_s=fleet.clock.wall())
    deadline = result.started_s + timeout_s

    def send(instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case PrepareOn(device, moves):
                    incoming = [Incoming(str(m.block), m.source, m.payload_bytes) for m in moves]
                    fleet.send(device, Prepare(migration.epoch, length, incoming, shipped, storage_Bps[device]))
                case TransferFrom(device, moves):
                    outgoing = [(str(m.block), m.destination) for m in moves]
                    fleet.send(device, Transfer(migration.epoch, length, outgoing, shipped))
                case CommitOn(device, drop):
                    fleet.send(device, Commit(plan, [str(block) for block in drop]))
                case AbortOn(device):
                    fleet.send(device, Abort(migration.epoch))

    send(migration.begin())
    phase = migration.phase
    while not migration.over:
        events = wait(max(0.0, deadline - fleet.clock.wall()))
        result.losses = [(device, event) for device, event in events if isinstance(event, DeviceLost)]
        if result.losses:
            break
        for device, event in events:
            match event:
                case Prepared() if event.epoch == migration.epoch:
                    send(migration.prepared(device))
                case Arrived() if event.epoch == migration.epoch:
                    result.arrivals |= {arrival.block: arrival for arrival in event.arrivals}
                    send(migration.arrived(device))
                case Sent() if event.epoch == migration.epoch:
                    send(migration.sent(device))
                case Refused() if event.epoch == migration.epoch:
                    send(migration.refused(device, event.reason))
                case Aborted() if event.epoch == migration.epoch:
                    send(migration.aborted(device))
                case Committed() if event.epoch == migration.epoch:
                    send(migration.committed(device))
        if migration.phase != phase and migration.phase != "transferring":
            phase, deadline = migration.phase, fleet.clock.wall() + timeout_s
        if fleet.clock.wall() < deadline or migration.over:
            continue
        if migration.phase not in ("preparing", "transferring"):
            raise RunFailed(
                f"migration to epoch {migration.epoch}: {', '.join(migration.silent)} gave no answer while "
                f"{migration.phase} for {timeout_s:.0f} s"
            )
        send(migration.abort(f"the transfers took longer than {timeout_s:.0f} s"))
    result.finished_s = fleet.clock.wall()
    return result
