"""`layerwise`: the best that whole layers can do.

It is no paper's algorithm but the rival that head-level placement has to beat. It finds the cheapest interval,
migration and tokens together, among all placements with every layer whole, on any device and in any order. Memory and
double residency limit it; EdgeShard's pin of the first layer to the source does not.

- *The first placement* is the optimum, by an integer program (`layers.integer_program`).
- *Later decisions* are the optimum while the label-setting algorithm (`layers.label_setting`) stays within its width,
  and the best placement it found otherwise. `proven` says which of the two the last decision was.
- Like other policies, it first looks among placements that fit with the caches of the run's end, and only if
  none does among those that fit until the interval's end. `reserve: false` does the latter at once.
- A device with more layers than fit with the caches of the run's end may keep them while they fit, but takes no other.
"""

from __future__ import annotations

import math

from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import refuse_shortages
from testbed.placement.cost.model import cost_model
from testbed.placement.layers.dynamic_program import fastest_path, first_fit
from testbed.placement.layers.integer_program import cheapest_walk
from testbed.placement.layers.label_setting import cheapest_assignment
from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import Draft
from testbed.placement.observation import Observation
from testbed.placement.policy_options import boolean_option
from testbed.placement.useful import with_room


class Layerwise:
    """The cheapest placement of whole layers; `reserve` keeps memory free for caches to grow to the run's end."""

    name = "layerwise"
    schedule_only = True  # its search does not know `cost: paper`

    def __init__(self, reserve: bool = True) -> None:
        self._reserve = boolean_option(self.name, "reserve", reserve)
        self.proven = True

    def reset(self, seed: int) -> None:
        """Begin a run; nothing is random."""
        self.proven = True

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Find the optimum for the coming interval."""
        change = self._place if placement is None else self._move
        if self._reserve:
            return decide_on_draft(observation, placement, change, self.name)
        draft = Draft(cost_model(with_room(observation, placement)), placement, placement, reserve=False)
        change(draft)
        return refuse_shortages(observation, placement, draft.placement(placement), self.name)

    def _place(self, draft: Draft) -> None:
        layers = WholeLayers(draft)
        if sum(layers.room) < layers.count:
            raise layers.refuse(self.name)
        found = cheapest_walk(layers.step, layers.home, layers.room, layers.count, draft.model.source)
        if found is None:
            raise layers.refuse(self.name)
        layers.put(found)

    def _move(self, draft: Draft) -> None:
        layers, source = WholeLayers(draft), draft.model.source
        stays = not draft.overloaded()
        start = None if stays else first_fit(layers, source) or fastest_path(layers, source)
        if start is not None:
            layers.put(start)
        found = cheapest_assignment(layers, math.inf if not stays and start is None else draft.cost)
        self.proven = found.proven
        if found.devices:
            layers.put(found.devices)
        elif not stays and start is None:
            raise layers.refuse(self.name)
