"""Carries out one change of placement on a fleet: instructions become commands, and events become steps.

`migration` holds the rules; this module only sends, waits and watches the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from testbed.controller.fleet import FleetEvent
from testbed.controller.migration import (
    AbortOn,
    CommitOn,
    CopyFrom,
    FinishOn,
    HaltSource,
    Instruction,
    Migration,
    PrepareOn,
    TransferFrom,
)
from testbed.errors import RunFailed
from testbed.placement.plan import Plan
from testbed.transport.copying import CaughtUp, Copy, Finish, Halt, StreamOrder, WeightsLoaded
from testbed.transport.messages import (
    Abort,
    Aborted,
    Arrival,
    Arrived,
    Command,
    Commit,
    Committed,
    Incoming,
    Prepare,
    Prepared,
    Refused,
    Sent,
    Transfer,
)

# Gives the events that come within so many wall seconds; raises what a loss among them means.
Wait = Callable[[float], list[tuple[str, FleetEvent]]]


@dataclass
class MigrationResult:
    """How one migration ended."""

    migration: Migration
    arrivals: dict[str, Arrival] = field(default_factory=dict)  # by the block's name
    started_s: float = 0.0  # wall seconds


@dataclass(frozen=True)
class CopyOrders:
    """How blocks are copied while tokens go on: the orders of each sender, and the most positions that there may be."""

    streams: Mapping[str, Sequence[StreamOrder]]
    until: int


@dataclass
class MigrationDriver:
    """Drives one migration. `length` counts cached positions.

    Transfers that take longer than `timeout_s` wall seconds are aborted, and the old epoch goes on.
    """

    send: Callable[[str, Command], None]
    wall: Callable[[], float]
    migration: Migration
    plan: Plan
    length: int
    shipped: bool
    storage_Bps: Mapping[str, float]
    timeout_s: float
    copying: CopyOrders | None = None
    hold_up: Callable[[], bool] = lambda: False  # whether traces hold up a link or a device for a while
    rows: int | None = None  # of each cache that travels, if not all

    def __post_init__(self) -> None:
        self.result = MigrationResult(self.migration, started_s=self.wall())
        self._deadline = self.result.started_s + self.timeout_s
        self._phase = self.migration.phase

    def begin(self) -> None:
        """Send the first commands."""
        self._carry_out(self.migration.begin())
        self._phase = self.migration.phase

    def run(self, wait: Wait) -> MigrationResult:
        """Go on until the migration is done or aborted.

        Raises RunFailed when a worker does not answer the abort, or the commit, within the timeout.
        """
        while not self.migration.over:
            for device, event in wait(max(0.0, self._deadline - self.wall())):
                self.hear(device, event)
            self.look_at_the_time()
        return self.result

    def hear(self, device: str, event: FleetEvent) -> None:
        """Take the steps that follow from an event. Those of other epochs mean nothing here."""
        migration = self.migration
        match event:
            case Prepared() if event.epoch == migration.epoch:
                self._carry_out(migration.prepared(device))
            case Arrived() if event.epoch == migration.epoch:
                self.result.arrivals |= {arrival.block: arrival for arrival in event.arrivals}
                self._carry_out(migration.arrived(device))
            case Sent() if event.epoch == migration.epoch:
                self._carry_out(migration.sent(device))
            case CaughtUp() if event.epoch == migration.epoch:
                self._carry_out(migration.caught_up(device))
            case WeightsLoaded() if event.epoch == migration.epoch:
                self._carry_out(migration.loaded(device))
            case Refused() if event.epoch == migration.epoch:
                self._carry_out(migration.refused(device, event.reason))
            case Aborted() if event.epoch == migration.epoch:
                self._carry_out(migration.aborted(device))
            case Committed() if event.epoch == migration.epoch:
                self._carry_out(migration.committed(device))

    def halted(self, length: int) -> None:
        """The source has halted with so many cached positions: copy the rows that are missing."""
        self.length = length
        self._carry_out(self.migration.halted())

    def abort(self, reason: str) -> None:
        """Give up, unless the migration is about to end anyway."""
        if self.migration.can_be_aborted:
            self._carry_out(self.migration.abort(reason))

    def gives_back(self, device: str) -> bool:
        """Whether an abort gives memory back on this device."""
        return self.migration.phase == "aborting" or (
            self.migration.can_be_aborted and any(move.destination == device for move in self.migration.moves)
        )

    def look_at_the_time(self) -> None:
        """Abort what takes too long; raises RunFailed for an abort or a commit that does."""
        migration = self.migration
        if migration.phase != self._phase and migration.phase != "transferring":
            self._deadline = self.wall() + self.timeout_s
        self._phase = migration.phase
        if self.wall() < self._deadline or migration.over:
            return
        if not migration.can_be_aborted:
            if self.hold_up():
                self._deadline = self.wall() + self.timeout_s
                return
            raise RunFailed(
                f"migration to epoch {migration.epoch}: {', '.join(migration.silent)} gave no answer while "
                f"{migration.phase} for {self.timeout_s:.0f} s"
            )
        self.abort(f"the transfers took longer than {self.timeout_s:.0f} s")

    def _carry_out(self, instructions: list[Instruction]) -> None:
        epoch = self.migration.epoch
        for instruction in instructions:
            match instruction:
                case PrepareOn(device, moves):
                    incoming = [Incoming(str(m.block), m.source, m.payload_bytes) for m in moves]
                    until = self.copying.until if self.copying is not None else None
                    storage_Bps = self.storage_Bps[device]
                    self.send(
                        device, Prepare(epoch, self.length, incoming, self.shipped, storage_Bps, until, self.rows)
                    )
                case TransferFrom(device, moves):
                    outgoing = [(str(m.block), m.destination) for m in moves]
                    rows = self.length if self.rows is None else self.rows
                    self.send(device, Transfer(epoch, rows, outgoing, self.shipped))
                case CopyFrom(device):
                    assert self.copying is not None
                    self.send(device, Copy(epoch, list(self.copying.streams[device]), self.shipped))
                case HaltSource():
                    self.send(self.plan.source, Halt())
                case FinishOn(device):
                    self.send(device, Finish(epoch, self.length))
                case CommitOn(device, drop):
                    self.send(device, Commit(self.plan, [str(block) for block in drop]))
                case AbortOn(device):
                    self.send(device, Abort(epoch))
