"""Keeps the journal of a run, and turns its lines back into placements and observations.

A token, and a loss that the run survives, are written by the recorder. Everything else that a run must know to go on
stands in checkpoints, which are written where nothing is under way but the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from testbed.clock import EmulatedClock
from testbed.controller.conditions import Conditions
from testbed.controller.run_state import RunState
from testbed.placement.blocks import Placement, parse_block
from testbed.placement.observation import Estimate, LinkView, Observation
from testbed.runlog.folder import RunLog
from testbed.runlog.journal import Asked, Blocks, Checkpoint, Crossing


@dataclass
class Journal:
    """The journal of one run."""

    log: RunLog
    clock: EmulatedClock
    state: RunState
    _asked: list[Asked] = field(default_factory=list)
    _crossings: list[Crossing] = field(default_factory=list)

    def asked(self, observation: Observation, placement: Placement | None) -> None:
        """The policy has been asked, so it may remember this."""
        if self.log.journaled:
            self._asked.append(asked_of(observation, placement))

    def crossed(self, until: float, committed: bool) -> None:
        """A boundary has been crossed, with the traces at time `until`."""
        self._crossings.append(Crossing(until, self.state.boundary, committed))

    def checkpoint(self) -> None:
        """Write down where the run stands."""
        if not self.log.journaled:
            return
        state = self.state
        placement, _ = state.placed()
        asked, crossings = self._asked, self._crossings
        self._asked, self._crossings = [], []
        self.log.journal(
            Checkpoint(
                boundary=state.boundary, tokens=state.tokens_done, epoch=state.epoch, placement=blocks_of(placement),
                placement_epoch=placement.epoch, now_s=self.clock.now(), trace_s=self.clock.trace_now(),
                lost=sorted(state.lost), asked=asked, crossings=crossings, files=self.log.sizes(),
                recovery=state.recovery,
            )
        )  # fmt: skip


def blocks_of(placement: Placement) -> Blocks:
    """The blocks of each device that has any, by name."""
    found: dict[str, list[str]] = {}
    for block, device in sorted(placement.devices.items(), key=lambda item: item[0].sort_key):
        found.setdefault(device, []).append(str(block))
    return found


def placement_of(blocks: Blocks, epoch: int) -> Placement:
    """The placement that `blocks_of` was given."""
    return Placement({parse_block(name): device for device, names in blocks.items() for name in names}, epoch)


def asked_of(observation: Observation, placement: Placement | None) -> Asked:
    """What of a call of the policy cannot be known from the experiment."""
    estimates = observation.estimates
    return Asked(
        observation.tokens_done,
        observation.hop_overhead_s,
        {view.name: (view.available_bytes, view.streaming_Bps, view.compute_flops) for view in observation.devices},
        {
            name: (link.up_bps, link.down_bps, link.up_delay_s, link.down_delay_s)
            for name, link in observation.links.items()
        },
        None if estimates is None else [(*key, *found) for key, found in estimates.items()],
        {str(block): device for block, device in observation.replicas.items()},
        None if placement is None else blocks_of(placement),
        0 if placement is None else placement.epoch,
    )


def observation_of(asked: Asked, present: Observation) -> Observation:
    """The observation of a call; `present` has what does not change in a run."""
    devices = []
    for view in present.devices:
        available, streaming, compute = asked.devices[view.name]
        devices.append(replace(view, available_bytes=available, streaming_Bps=streaming, compute_flops=compute))
    links = {
        name: LinkView(inf if up is None else up, inf if down is None else down, *delays)
        for name, (up, down, *delays) in asked.links.items()
    }
    found = asked.estimates
    return replace(
        present,
        tokens_done=asked.tokens_done,
        hop_overhead_s=asked.hop_overhead_s,
        devices=tuple(devices),
        links=links,
        replicas={parse_block(name): device for name, device in asked.replicas.items()},
        estimates=None if found is None else {(target, what): Estimate(*rest) for target, what, *rest in found},
    )


def replay_crossings(
    conditions: Conditions, crossings: Sequence[Crossing], until: float, boundary: int, on_tokens: bool
) -> None:
    """Bring the conditions of a run to where its journal ends; on the token clock that is the last boundary."""
    for crossing in crossings:
        _advance(conditions, crossing.until, crossing.boundary, on_tokens)
        conditions.enforce(crossing.boundary, crossing.committed)
    if not on_tokens:
        _advance(conditions, until, boundary, on_tokens)


def _advance(conditions: Conditions, until: float, boundary: int, on_tokens: bool) -> None:
    """Advance change by change on the time clock, as the run did, because a squeeze with `ramp` comes in steps."""
    while not on_tokens and (following := conditions.next_change_s()) is not None and following <= until:
        conditions.advance(following, boundary)
    conditions.advance(until, boundary)
