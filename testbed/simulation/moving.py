"""Blocks on their way between simulated devices: moved while no token is generated, or copied while tokens go on."""

from __future__ import annotations

import math
from collections.abc import Callable

from testbed.controller.fleet import FleetEvent
from testbed.placement.blocks import parse_block
from testbed.placement.cost.copying import Paces
from testbed.placement.observation import Observation
from testbed.simulation.copying import Copying
from testbed.simulation.memory import Memory
from testbed.simulation.replicas import Replicas
from testbed.simulation.transfers import Transfers
from testbed.transport.copying import CaughtUp, Copy, Finish, WeightsLoaded
from testbed.transport.messages import Arrived, Prepare, Prepared, Refused, Sent, Transfer
from testbed.units import format_bytes


class Moving:
    """What is on its way, if anything. `tell` reports an event of a device."""

    def __init__(self, memory: Memory, replicas: Replicas, tell: Callable[[str, FleetEvent], None]) -> None:
        self._memory, self._replicas, self._tell = memory, replicas, tell
        self._transfers: Transfers | None = None
        self._copying: Copying | None = None

    @property
    def paces(self) -> Paces:
        """The paces at which blocks are copied while tokens go on."""
        return {**self._replicas.paces, **(self._copying.paces if self._copying is not None else {})}

    def prepare(self, device: str, command: Prepare, budget_bytes: int, observation: Observation, now_s: float) -> None:
        """Have blocks arrive, if the budget holds them beside those that are here."""
        most = command.length if command.until is None else command.until
        if self._refuse_without(device, command.epoch, command.adopted(device)):
            return
        blocks = [parse_block(item.block) for item in command.incoming]
        self._replicas.adopt(device, blocks)
        self._memory.take(device, blocks)
        need = self._memory.held_bytes(device, most)
        if need > budget_bytes and self._replicas.make_room(device):
            need = self._memory.held_bytes(device, most)
        if need > budget_bytes:
            self._memory.drop(device, blocks)
            reason = (
                f"device {device} would need {format_bytes(need)} for its blocks and the {len(blocks)} incoming ones "
                f"together, its budget is {format_bytes(budget_bytes)}"
            )
            self._tell(device, Refused(command.epoch, reason))
            return
        if command.until is None:
            if self._transfers is None or self._transfers.epoch != command.epoch:
                rows = command.length if command.rows is None else command.rows
                self._transfers = Transfers(command.epoch, rows, now_s)
            self._transfers.incoming[device] = command.incoming
        else:
            if self._copying is None or self._copying.epoch != command.epoch:
                self._copying = Copying(command.epoch, now_s)
            self._copying.prepare(device, command, observation, now_s)
        self._tell(device, Prepared(command.epoch))

    def transfer(self, sender: str, command: Transfer) -> None:
        """Send blocks."""
        assert self._transfers is not None
        held = set(map(str, self._memory.blocks(sender)))
        if not self._refuse_without(sender, command.epoch, [name for name, _ in command.outgoing if name not in held]):
            self._transfers.senders.append(sender)

    def _refuse_without(self, device: str, epoch: int, names: list[str]) -> bool:
        """Refuse an epoch for which a device lacks a replica of these; returns whether it did."""
        kept = self._replicas.rows.get(device, {})
        gone = [name for name in names if parse_block(name) not in kept]
        if gone:
            self._tell(device, Refused(epoch, f"device {device}: the cache of {gone[0]} is not here any more"))
        return bool(gone)

    def copy(self, sender: str, command: Copy, length: int, observation: Observation, now_s: float) -> None:
        """Begin to copy blocks with so many rows."""
        assert self._copying is not None
        self._copying.begin(sender, command, length, observation, now_s)

    def finish(self, command: Finish, observation: Observation, now_s: float) -> None:
        """Copy the last rows."""
        assert self._copying is not None
        self._copying.finish(command.length, observation, now_s)

    def add_row(self, observation: Observation, now_s: float) -> bool:
        """A token has ended; returns whether tokens will wait for more or for less than before."""
        if self._copying is not None:
            self._copying.add_row(now_s, observation)
        return self._replicas.add_row(observation, now_s)

    def begin_what_is_due(self, observation: Observation, now_s: float) -> None:
        """Begin to move blocks whose receivers have all prepared."""
        if self._transfers is not None and self._transfers.incoming and not self._transfers.begun:
            self._transfers.proceed(now_s, observation)

    def proceed(self, observation: Observation, now_s: float) -> None:
        """Go on under these conditions."""
        if self._transfers is not None and self._transfers.begun:
            self._transfers.proceed(now_s, observation)
        if self._copying is not None:
            self._copying.proceed(now_s, observation)
        self._replicas.proceed(observation, now_s)

    @property
    def next_s(self) -> float:
        """When something next happens by itself; infinite if nothing will."""
        moved_s = self._transfers.end_s if self._transfers is not None and self._transfers.loads else math.inf
        return min(moved_s, self._copying.next_s if self._copying is not None else math.inf)

    def go_on(self, observation: Observation, now_s: float) -> None:
        """Report what has been reached by now."""
        transfers, copying = self._transfers, self._copying
        if transfers is not None and transfers.loads and transfers.end_s <= now_s:
            for sender in transfers.senders:
                self._tell(sender, Sent(transfers.epoch))
            for receiver in transfers.incoming:
                self._tell(receiver, Arrived(transfers.epoch, transfers.arrivals(receiver, observation)))
            transfers.loads.clear()
        if copying is None:
            return
        for receiver in copying.take_loaded(now_s):
            self._tell(receiver, WeightsLoaded(copying.epoch))
        for sender in copying.take_caught_up(now_s):
            self._tell(sender, CaughtUp(copying.epoch))
        if copying.length is not None and copying.finish_s <= now_s:
            for sender in sorted({stream.sender for stream in copying.streams}):
                self._tell(sender, Sent(copying.epoch))
            for receiver in copying.incoming:
                self._tell(receiver, Arrived(copying.epoch, copying.arrivals(receiver, observation)))
            self._copying = None

    def commit(self, device: str) -> None:
        """Keep what has arrived. The device copies no more."""
        self._transfers = self._copying = None
        self._replicas.commit(device)

    def forget(self, device: str) -> None:
        """Drop what was on its way to a device."""
        if self._transfers is not None:
            self._memory.drop(device, self._transfers.blocks(device))
            self._transfers.incoming.pop(device, None)
            self._transfers.loads.clear()
        if self._copying is not None:
            incoming = self._copying.incoming.pop(device, ())
            self._memory.drop(device, [parse_block(item.block) for item in incoming])
            if not self._copying.incoming:
                self._copying = None
