"""Policies with the heads on b, c and d, for runs that lose one of them: as classes, and as a file that a run loads."""

from __future__ import annotations

from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.observation import Observation


class Thirds:
    """Spreads heads over b, c and d as far as they live, and leaves all blocks that are on the living."""

    name = "thirds"

    def reset(self, seed: int) -> None:
        """Nothing is remembered."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """See the class."""
        poor = {view.name for view in observation.devices if not view.available_bytes}
        if placement is not None and not poor & set(placement.devices.values()):
            return placement
        homes = [name for name in "bcd" if name not in poor]
        blocks = dict.fromkeys(blocks_of(observation.shape), "a")
        return Placement(blocks | {b: homes[b.index % len(homes)] for b in blocks if b.kind == "head"})


class Turning(Thirds):
    """After a loss, puts each head on the living device after the one that it would be left on, or all on a."""

    name = "turning"

    def __init__(self, home: bool = False) -> None:
        self.home = home

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """See the class."""
        living = [view.name for view in observation.devices if view.available_bytes and view.name != "a"]
        if placement is None or len(living) == 3:
            return super().decide(observation, placement)
        heads = [block for block in placement.devices if block.kind == "head"]
        homes = ["a"] if self.home else living
        return placement.with_moves((head, homes[(head.index + 1) % len(homes)]) for head in heads)
