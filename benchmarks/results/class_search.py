"""Finds the best first placement of the class `shard` with the search of `headroom`, because the models are too large
for `exact`.

In this class, the heads of a layer and its projection are on one device, and FFN shards on any. The search treats the
heads as a part of the projection.
"""

from __future__ import annotations

import numpy as np

from testbed.placement.annealing.counts_to_blocks import placement_of
from testbed.placement.annealing.problem import TARGET, UNIT, Problem, make_problem
from testbed.placement.annealing.search import Objective, search, warm_up
from testbed.placement.annealing.state import new_state
from testbed.placement.blocks import ATTENTION, Placement
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import CostModel, cost_model
from testbed.placement.cost.tables import demand_of, demands_of, network_of, tables_of
from testbed.placement.observation import Observation
from testbed.placement.plan import x_payload


class HeadsTogether:
    """Places once, with each layer's attention on one device, and never moves a block."""

    name = "heads-together"

    def __init__(self) -> None:
        self._seed = 0

    def reset(self, seed: int) -> None:
        """Set the seed of the search."""
        warm_up()
        self._seed = seed

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The first placement found, and the same one at each later decision; raises Infeasible if there is none."""
        if placement is not None:
            return placement
        model = cost_model(observation)
        whole = make_problem(model, None, model)
        problem = together(whole, model)
        for found in search(problem, new_state(problem, self._seed), Objective()).placements:
            places = found.places.copy()
            for half in range(0, len(places) - 2, 2):  # attention; the last two are the return and the LM head
                places[half, places[half, -1]] = model.shape.kv_heads
            wanted = placement_of(whole, model, None, places)
            if not shortages(observation, None, wanted):
                return wanted
        raise Infeasible("no placement was found that keeps the heads of each layer together")


def together(whole: Problem, model: CostModel) -> Problem:
    """The problem in which heads go with their projection: no heads to place, but a larger target."""
    heads = model.shape.kv_heads
    attention, *others = demands_of(model)
    all_s = (heads * attention.unit_s + attention.target_s).tolist()
    idle = np.zeros_like(attention.unit_s).tolist()
    demands = [demand_of(x_payload(model.shape), [0.0], idle, all_s), *others]
    network = network_of(model.observation)
    units, sizes = whole.units.copy(), whole.sizes.copy()
    units[ATTENTION] = 0
    sizes[:, ATTENTION, TARGET] += heads * sizes[:, ATTENTION, UNIT]
    sizes[:, ATTENTION, UNIT] = 0
    return whole._replace(tables=tables_of([(network, demands)] * 2), units=units, sizes=sizes)
