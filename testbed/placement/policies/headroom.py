"""`headroom`: ours. The best on every side of every border, by search over all that a placement can express."""

from __future__ import annotations

from contextlib import suppress

from testbed.errors import ConfigError
from testbed.placement.annealing.outlook import Outlook
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible, any_placement, nothing_fits, refuse_shortages
from testbed.placement.cost.model import cost_model
from testbed.placement.local.draft import Draft
from testbed.placement.local.improve import repair
from testbed.placement.observation import Observation
from testbed.placement.useful import reachable, same_devices, with_room

HORIZONS = ("interval", "near", "run")
NEAR = 0.015  # what the interval may cost more than its best for the sake of the tokens after it


class Headroom:
    """Counts of heads and FFN shards per device and a target for every half-layer, by compiled local search.

    The objective is the coming interval's cost, migration included. Starts are the present placement, single devices,
    layers fill_draft into devices, chains of devices whose order is searched, a token's shortest ways from device to
    device while memory gets dearer where it is short, and units in proportion to speed; all descend through moves of
    units, targets, layers and patterns of layers, the best are annealed, with memory as a price that rises to a wall.
    Then the tokens after the interval are weighed at the latency expected for them: caches that grow to the run's end,
    and rates and memory as `Outlook` sees them coming from past observations.

    `horizon`: `interval` stops before that; `near` (default) lets the present interval cost at most 1.5 % more than
    its best for the sake of later ones; `run` lets it cost anything. `effort` multiplies the number of moves looked at.
    """

    name = "headroom"

    def __init__(self, horizon: str = "near", effort: float = 1.0) -> None:
        if horizon not in HORIZONS:
            raise ConfigError(f"policy headroom: horizon is {horizon!r}, and can be {', '.join(HORIZONS)}")
        if isinstance(effort, bool) or not isinstance(effort, int | float) or not 0 < effort <= 1000:
            raise ConfigError(f"policy headroom: effort is {effort!r}, and must be a number above 0 and up to 1000")
        self._horizon = horizon
        self._effort = float(effort)
        self._seed = 0
        self._outlook = Outlook()

    def reset(self, seed: int) -> None:
        """Begin a run: forget what was observed; `seed` is that of the annealing."""
        from testbed.placement.annealing.search import warm_up

        warm_up()
        self._seed = seed
        self._outlook = Outlook()

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The best placement found that can be carried out from the present one; raises Infeasible."""
        expected = self._outlook.after(observation)
        able = with_room(observation, placement)
        at_hand = reachable(able, placement)
        if at_hand is not able:
            with suppress(Infeasible):
                return refuse_shortages(observation, placement, self._best(at_hand, placement, expected), self.name)
        return refuse_shortages(observation, placement, self._best(able, placement, expected), self.name)

    def _best(self, observation: Observation, placement: Placement | None, expected: Observation | None) -> Placement:
        from testbed.placement.annealing.counts_to_blocks import BlockAssigner, best_assigned, placement_of
        from testbed.placement.annealing.problem import make_problem, places_of
        from testbed.placement.annealing.search import Objective, search
        from testbed.placement.annealing.state import new_state

        model = cost_model(observation)
        later = expected and same_devices(expected, observation)
        problem = make_problem(model, placement, cost_model(later or observation))
        slack = {"interval": 0.0, "near": NEAR, "run": float("inf")}[self._horizon]
        left = observation.tokens_max - observation.tokens_done - observation.interval_tokens
        objective = Objective(left if later is not None and slack > 0 else 0.0, slack)
        state = new_state(problem, self._seed + observation.tokens_done)
        result = search(
            problem, state, objective, self._effort, lambda: places_of(model, self._any(observation, placement))
        )
        wanted: Placement | None = None
        if placement is not None and any(half.partial for half in model.halves):
            wanted = best_assigned(problem, state, BlockAssigner(problem, model, placement), result, objective)
        elif result.placements:
            wanted = placement_of(problem, model, placement, result.placements[0].places)
        return self._any(observation, placement) if wanted is None else wanted

    def _any(self, observation: Observation, placement: Placement | None) -> Placement:
        """Some placement that fits; raises Infeasible."""
        if placement is None:
            found = any_placement(observation)
            if found is None:
                raise Infeasible(f"headroom found no placement: {nothing_fits(observation)}")
            return found
        draft = Draft(cost_model(observation), placement, placement, reserve=False)
        repair(draft, self.name)
        return draft.placement(placement)
