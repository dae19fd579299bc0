"""`layerwise`: the best that whole layers can do.

No paper's algorithm but the rival that head-level placement has to beat: the cheapest interval (migration plus its
tokens) of all placements with every layer whole, on any device and in any order, under memory and double
residency, without EdgeShard's pin of the first layer to the source. Optimal in this sense:

- *The first placement* is the optimum, by an integer programme over hops (`layer_walk`).
- *Later decisions* are the optimum where the search of `layer_moves` stays within its width, and the best it found
  otherwise; `proven` says which it was at the last decision.
- As every policy here it first looks among placements that have room for the caches to grow to the run's end, and only
  if there is none among those that fit the interval. `reserve: false` looks at the interval alone.
- A device that has more layers than it has room to grow for may keep them while they fit, but takes no other.
"""

from __future__ import annotations

import math

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import refuse_shortages
from testbed.placement.cost.model import cost_model
from testbed.placement.layers.integer_program import cheapest_walk
from testbed.placement.layers.label_setting import cheapest_assignment
from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.draft import Draft, decide_on_draft
from testbed.placement.observation import Observation
from testbed.placement.policies.edgeshard import dealt, shortest
from testbed.placement.useful import with_room


class Layerwise:
    """The cheapest placement of whole layers; `reserve` keeps room for caches to grow to the run's end."""

    name = "layerwise"

    def __init__(self, reserve: bool = True) -> None:
        if not isinstance(reserve, bool):
            raise ConfigError(f"policy {self.name}: reserve is {reserve!r}, but it must be true or false")
        self._reserve = reserve
        self.proven = True

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""
        self.proven = True

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The optimum for the coming interval."""
        fill = self._place if placement is None else self._move
        if self._reserve:
            return decide_on_draft(observation, placement, fill, self.name)
        draft = Draft(cost_model(with_room(observation, placement)), placement, placement, reserve=False)
        fill(draft)
        return refuse_shortages(observation, placement, draft.placement(placement), self.name)

    def _place(self, draft: Draft) -> None:
        layers = WholeLayers(draft)
        found = cheapest_walk(layers.step, layers.home, layers.room, layers.count, draft.model.source)
        if found is None:
            raise layers.refuse(self.name)
        layers.put(found)

    def _move(self, draft: Draft) -> None:
        layers, source = WholeLayers(draft), draft.model.source
        stays = not draft.overloaded()
        start = None if stays else dealt(layers, source) or shortest(layers, source)
        if start is not None:
            layers.put(start)
        found = cheapest_assignment(layers, math.inf if not stays and start is None else draft.cost)
        self.proven = found.proven
        if found.devices:
            layers.put(found.devices)
        elif not stays and start is None:
            raise layers.refuse(self.name)
