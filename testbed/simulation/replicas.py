"""Replicas of KV caches on simulated devices: each stream works off its rows, and tokens add more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.controller.fleet import FleetEvent
from testbed.placement.blocks import Block, parse_block, state_bytes
from testbed.placement.cost.copying import Paces
from testbed.placement.observation import Observation
from testbed.simulation.copying import Stream
from testbed.simulation.memory import Memory
from testbed.transport.copying import Keep, Kept, ReplicasDropped, Replicate


@dataclass
class Replicas:
    """The replicas of a run. `rows` has those that are whole, by holder; a stream's heads have rows alike."""

    memory: Memory
    tell: Callable[[str, FleetEvent], None]
    rows: dict[str, dict[Block, int]] = field(default_factory=dict)
    _streams: list[Stream] = field(default_factory=list)
    _length: int = 0  # rows of the caches
    _busy: bool = False  # whether a stream has more to do than the newest rows

    @property
    def paces(self) -> Paces:
        """The paces of streams that are behind. New rows alone take a small part of a link."""
        return {
            (stream.sender, stream.order.receiver): stream.pace
            for stream in self._streams
            if stream.left_bytes > 2 * stream.row_bytes
        }

    def keep(self, device: str, command: Keep, budget_bytes: int) -> None:
        """Keep these replicas and no others, as far as the budget goes."""
        before = self.rows.get(device, {})
        wanted = [parse_block(name) for name, _ in command.incoming]
        kept: dict[Block, int] = {block: before[block] for block in wanted if block in before}
        self.memory.replicas[device] = len(kept)
        for block in wanted:
            if block not in kept:
                self.memory.replicas[device] += 1
                if self.memory.held_bytes(device, command.until) > budget_bytes:
                    self.memory.replicas[device] -= 1
                    continue
                kept[block] = 0
        self.rows[device] = {block: kept[block] for block in wanted if block in kept}
        self.tell(device, Kept(command.generation, [(str(block), rows) for block, rows in self.rows[device].items()]))

    def replicate(self, sender: str, command: Replicate, length: int, observation: Observation, now_s: float) -> None:
        """Begin to copy what is missing of `length` rows."""
        self._length = length
        self._streams = [stream for stream in self._streams if stream.sender != sender]
        for order in command.streams:
            row_bytes = [state_bytes(observation.shape, parse_block(name), 1) for name in order.blocks]
            left = sum(size * (length - rows) for size, rows in zip(row_bytes, order.rows, strict=True))
            self._streams.append(Stream(sender, order, left, sum(row_bytes), now_s))
        self.proceed(observation, now_s)

    def proceed(self, observation: Observation, now_s: float) -> None:
        """Go on under these conditions."""
        for stream in self._streams:
            stream.proceed(now_s, observation)
            missing = -(-stream.left_bytes // stream.row_bytes)
            for name in stream.order.blocks:
                rows = self.rows.get(stream.order.receiver, {})
                if parse_block(name) in rows:
                    rows[parse_block(name)] = max(rows[parse_block(name)], int(self._length - missing))

    def add_row(self, observation: Observation, now_s: float) -> bool:
        """A token has ended; returns whether a stream has caught up or fallen behind."""
        self.proceed(observation, now_s)
        self._length += 1
        for stream in self._streams:
            stream.left_bytes += stream.row_bytes
        busy, self._busy = self._busy, bool(self.paces)
        return busy != self._busy

    def commit(self, device: str) -> None:
        """A device switches to a new epoch, and stops to send."""
        self._streams = [stream for stream in self._streams if stream.sender != device]

    def make_room(self, device: str) -> bool:
        """Drop all replicas on a device; returns whether there were any."""
        found = bool(self.rows.pop(device, None))
        if found:
            self.memory.replicas[device] = 0
            self._streams = [stream for stream in self._streams if stream.order.receiver != device]
            self.tell(device, ReplicasDropped())
        return found

    def adopt(self, device: str, blocks: list[Block]) -> None:
        """Blocks arrive at a device that may have replicas of their caches."""
        rows = self.rows.get(device, {})
        for block in blocks:
            if rows.pop(block, None) is not None:
                self.memory.replicas[device] -= 1

    def interrupt(self, observation: Observation, now_s: float) -> None:
        """End all streams. What is there stays."""
        self.proceed(observation, now_s)
        self._streams = []

    def clear(self, device: str) -> None:
        """A device has died."""
        self.rows.pop(device, None)
        self.memory.replicas[device] = 0
        self._streams = [one for one in self._streams if device not in (one.sender, one.order.receiver)]

    def held(self, device: str) -> list[tuple[str, int]]:
        """The replicas on a device, each with its rows."""
        return [(str(block), rows) for block, rows in self.rows.get(device, {}).items()]
