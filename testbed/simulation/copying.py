"""Blocks that are copied while tokens go on, in virtual time: each stream works off its bytes, and tokens add rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from testbed.placement.blocks import parse_block, payload_bytes, state_bytes, weight_bytes, wire_bytes
from testbed.placement.cost.copying import CopyPace, Paces
from testbed.placement.cost.model import MIGRATION_HANDSHAKE_S
from testbed.placement.observation import Observation, path_rate_bps
from testbed.transport.copying import Copy, StreamOrder
from testbed.transport.messages import Arrival, Incoming, Prepare
from testbed.wire import OUTAGE_BPS


@dataclass
class Stream:
    """What one device copies to another."""

    sender: str
    order: StreamOrder
    left_bytes: float  # of payload
    row_bytes: int  # of all its heads
    since_s: float
    rate_Bps: float = 0.0  # of payload

    def proceed(self, now_s: float, observation: Observation) -> None:
        """Go on under these conditions."""
        self.left_bytes = max(0.0, self.left_bytes - (now_s - self.since_s) * self.rate_Bps)
        pace_Bps = min(self.order.rate_Bps, path_rate_bps(observation.path(self.sender, self.order.receiver)) / 8)
        share = self.order.chunk_bytes / wire_bytes(self.order.chunk_bytes)
        self.since_s, self.rate_Bps = now_s, max(pace_Bps, OUTAGE_BPS / 8) * share

    @property
    def pace(self) -> CopyPace:
        """Its pace, for what tokens wait for it."""
        return CopyPace(8 * self.order.rate_Bps, self.order.chunk_bytes, self.order.window_bytes)

    @property
    def end_s(self) -> float:
        """When nothing will be left if no row comes."""
        return self.since_s + self.left_bytes / self.rate_Bps if self.left_bytes else self.since_s


@dataclass
class Copying:
    """The copies of one epoch, from the first Prepare on."""

    epoch: int
    begun_s: float
    incoming: dict[str, Sequence[Incoming]] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)  # receiver -> when its weights are loaded
    streams: list[Stream] = field(default_factory=list)
    length: int | None = None  # at which it finishes
    finish_s: float = 0.0
    _behind: set[str] = field(default_factory=set)  # senders that have not caught up yet

    @property
    def paces(self) -> Paces:
        """The pace of each stream, for what tokens wait for it."""
        return {(stream.sender, stream.order.receiver): stream.pace for stream in self.streams}

    def prepare(self, device: str, command: Prepare, observation: Observation, now_s: float) -> None:
        """A receiver has set memory aside and begins to load weights."""
        self.incoming[device] = command.incoming
        size = 0 if command.shipped else sum(
            weight_bytes(observation.shape, parse_block(item.block).kind, observation.partition)
            for item in command.incoming
        )  # fmt: skip
        self.loads[device] = now_s + size / command.storage_Bps

    def begin(self, sender: str, command: Copy, length: int, observation: Observation, now_s: float) -> None:
        """A sender begins to copy."""
        shape, partition = observation.shape, observation.partition
        for order in command.streams:
            blocks = [parse_block(name) for name in order.blocks]
            size = sum(payload_bytes(shape, block, length, command.shipped, partition) for block in blocks)
            self.streams.append(
                Stream(sender, order, size, sum(state_bytes(shape, block, 1) for block in blocks), now_s)
            )
        self._behind.add(sender)
        self.proceed(now_s, observation)

    def proceed(self, now_s: float, observation: Observation) -> None:
        """Go on under these conditions."""
        for stream in self.streams:
            stream.proceed(now_s, observation)

    def add_row(self, now_s: float, observation: Observation) -> None:
        """A token has added a row to every head."""
        self.proceed(now_s, observation)
        for stream in self.streams:
            stream.left_bytes += stream.row_bytes

    @property
    def next_s(self) -> float:
        """When something next happens by itself; infinite if nothing will."""
        if self.length is not None:
            return self.finish_s
        # A sender catches up with its last stream; the end of an earlier one changes nothing.
        ends = [
            max((stream.end_s for stream in self.streams if stream.sender == sender), default=self.begun_s)
            for sender in self._behind
        ]
        return min([*ends, *self.loads.values()], default=float("inf"))

    def take_loaded(self, now_s: float) -> list[str]:
        """The receivers that have loaded their weights by now, each once."""
        found = [device for device, at_s in self.loads.items() if at_s <= now_s]
        for device in found:
            del self.loads[device]
        return found

    def take_caught_up(self, now_s: float) -> list[str]:
        """The senders whose receivers lack at most the newest row, each once."""
        found = []
        for sender in sorted(self._behind):
            own = [stream for stream in self.streams if stream.sender == sender]
            if all(stream.end_s <= now_s for stream in own):
                found.append(sender)
                self._behind.discard(sender)
        return found

    def finish(self, length: int, observation: Observation, now_s: float) -> None:
        """Copy what is left at the links' rates."""
        if self.length is not None:
            return
        self.proceed(now_s, observation)
        self.length = length
        carried: dict[object, float] = {}
        delay_s = 0.0
        for stream in self.streams:
            path = observation.path(stream.sender, stream.order.receiver)
            delay_s = max(delay_s, sum(leg.delay_s for leg in path))
            for leg in path:
                seconds = wire_bytes(stream.left_bytes) * 8 / max(leg.rate_bps, OUTAGE_BPS)
                carried[leg.hop] = carried.get(leg.hop, 0.0) + seconds
        self.finish_s = now_s + max(carried.values(), default=0.0) + delay_s + 2 * MIGRATION_HANDSHAKE_S

    def arrivals(self, receiver: str, observation: Observation) -> list[Arrival]:
        """What a receiver reports in the end."""
        assert self.length is not None
        found = []
        shape, partition = observation.shape, observation.partition
        for item in self.incoming[receiver]:
            block, shipped = parse_block(item.block), observation.weights == "shipped"
            loaded = 0 if shipped else weight_bytes(shape, block.kind, partition)
            sent = payload_bytes(shape, block, self.length, shipped, partition)
            found.append(
                Arrival(item.block, item.source, sent, loaded, self.begun_s, self.begun_s, self.finish_s, self.finish_s)
            )
        return found
