"""A migration under way: each link and each storage works through its own load, whatever changes meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.placement.blocks import Block, parse_block, weight_bytes
from testbed.placement.cost.model import migration_around_s, migration_loads
from testbed.placement.observation import Hop, Observation
from testbed.simulation.jobs import Job
from testbed.transport.messages import Arrival, Incoming


@dataclass
class Transfers:
    """The moving blocks of one epoch, from the first Prepare on; they begin to move when all receivers have prepared.

    They have arrived when every load is done and one path delay and the handshake have passed. Under conditions that do
    not change, that takes `migration_delay`.
    """

    epoch: int
    length: int  # positions in the caches that travel
    begun_s: float
    incoming: dict[str, list[Incoming]] = field(default_factory=dict)  # receiver -> the blocks it takes in
    senders: list[str] = field(default_factory=list)  # in the order in which they were told to send
    loads: dict[Hop | str, Job] = field(default_factory=dict)
    delay_s: float = 0.0
    begun: bool = False

    def blocks(self, device: str) -> list[Block]:
        """The blocks on their way to a device."""
        return [parse_block(item.block) for item in self.incoming.get(device, ())]

    @property
    def end_s(self) -> float:
        """When everything will have arrived if the conditions stay as they are."""
        return max((job.end_s for job in self.loads.values()), default=self.begun_s) + self.delay_s

    def proceed(self, now_s: float, observation: Observation) -> None:
        """Go on under these conditions. The first call begins."""
        moves = [
            (parse_block(item.block), item.source, receiver)
            for receiver, items in self.incoming.items()
            for item in items
        ]
        loads, delay = migration_loads(observation, moves, self.length)
        self.begun = True
        self.delay_s = migration_around_s(observation, delay)
        for load in loads:
            if load.where in self.loads:
                self.loads[load.where].change(now_s, load.seconds)
            else:
                self.loads[load.where] = Job(load.seconds, now_s)

    def arrivals(self, receiver: str, observation: Observation) -> list[Arrival]:
        """What a receiver reports at the end: each block's payload over its path, and its weights."""
        found, end_s = [], self.end_s
        for item in self.incoming[receiver]:
            first = last = self.begun_s
            if item.payload_bytes:
                path = observation.path(item.source, receiver)
                last = max(self.loads[leg.hop].end_s for leg in path)
                first = min(last, self.begun_s + sum(leg.delay_s for leg in path))
            weights = 0
            if observation.weights == "staged":
                weights = weight_bytes(observation.shape, parse_block(item.block).kind, observation.partition)
            found.append(
                Arrival(item.block, item.source, item.payload_bytes, weights, self.begun_s, first, last, end_s)
            )
        return found
