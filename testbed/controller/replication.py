"""Has devices keep replicas of one another's KV caches, so that a loss costs little.

A generation of replicas begins after each change of placement or of budgets. Holders say what they keep, with the rows
that they have already. Then owners copy what is missing, and every new row. Nobody waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from testbed.controller.event_loop import EventLoop
from testbed.controller.run_state import RunState
from testbed.experiment.schema import Experiment
from testbed.placement.blocks import parse_block
from testbed.placement.cost.copying import copy_paces
from testbed.placement.cost.replicas import affordable, replica_homes
from testbed.placement.observation import Observation
from testbed.transport.copying import Keep, Kept, ReplicasDropped, Replicate, StreamOrder


@dataclass
class Replication:
    """The replicas of one run."""

    experiment: Experiment
    loop: EventLoop
    state: RunState
    generation: int = 0
    _made_for: tuple[object, ...] = ()
    _kept: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # by holder, in this generation
    _truth: Observation | None = None

    def look(self) -> None:
        """After a token: begin another generation if placement, living devices or budgets have changed."""
        state = self.state
        if self.experiment.recovery.method == "recompute" or not state.tokens_done or self.loop.copying is not None:
            return
        truth = self.loop.observation()
        made_for = state.epoch, state.lost, tuple(view.available_bytes for view in truth.devices)
        if made_for != self._made_for:
            self._made_for = made_for
            self._begin(truth)

    def _begin(self, truth: Observation) -> None:
        """Ask every living device to keep what it is to keep from now on."""
        state, placement = self.state, self.state.placed()[0]
        homes = replica_homes(truth, placement, state.replicas, state.lost)
        if self.experiment.recovery.method == "auto":
            homes = affordable(truth, placement, homes)
        self.generation += 1
        self._kept, self._truth, state.replicas = {}, truth, homes
        until = truth.prompt_tokens + truth.tokens_max - 1
        for device in self.loop.living():
            incoming = [(str(block), placement.devices[block]) for block, home in homes.items() if home == device]
            self.loop.send(device, Keep(self.generation, incoming, until))

    def hear(self, device: str, event: object) -> None:
        """When all have said what they keep, have the owners copy it."""
        match event:
            case Kept() if event.generation == self.generation:
                self._kept[device] = event.replicas
                if set(self._kept) >= set(self.loop.living()):
                    self._copy()
            case ReplicasDropped():
                self.state.replicas = {block: home for block, home in self.state.replicas.items() if home != device}

    def _copy(self) -> None:
        placement, truth = self.state.placed()[0], self._truth
        if truth is None or self.state.epoch != self._made_for[0]:  # the next token begins another generation
            return
        self.state.replicas = {parse_block(name): home for home, kept in self._kept.items() for name, _ in kept}
        moves = [(block, placement.devices[block], home) for block, home in self.state.replicas.items()]
        paces = copy_paces(replace(truth, weights="staged"), moves)
        orders: dict[str, list[StreamOrder]] = {}
        for (owner, home), pace in paces.items():
            mine = [(name, rows) for name, rows in self._kept[home] if placement.devices[parse_block(name)] == owner]
            order = StreamOrder(
                home, [name for name, _ in mine], pace.rate_bps / 8 / self.experiment.dilation, pace.piece_bytes,
                pace.window_bytes, tuple(rows for _, rows in mine),
            )  # fmt: skip
            orders.setdefault(owner, []).append(order)
        for owner, streams in orders.items():
            self.loop.send(owner, Replicate(self.generation, streams))

    def drop(self) -> None:
        """A loss has ended all streams."""
        self.generation += 1
        self._made_for, self._kept = (), {}
