"""`headroom`: ours. It searches all that a placement can express, so that it need not know which cut pays where."""

from __future__ import annotations

from contextlib import suppress

from testbed.errors import ConfigError
from testbed.placement.annealing.outlook import Outlook
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible, any_placement, nothing_fits, too_little_memory
from testbed.placement.cost.model import cost_model
from testbed.placement.local.draft import Draft
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation
from testbed.placement.uncertainty import is_worth_moving, with_margin
from testbed.placement.useful import decide_on_useful, same_devices

HORIZONS = ("interval", "near", "run")
NEAR = 0.015  # of its least cost an interval may give away for later ones, whose conditions are only expected
MOST_EFFORT = 1000  # times the usual number of moves; more is refused as a slip
MOST_MARGIN = 0.9  # of each device's memory
MOST_HYSTERESIS = 10.0  # spreads


class Headroom:
    """Compiled local search and simulated annealing over counts of blocks per device and a target for each half-layer.

    The objective is the cost of the coming interval, migration included. The search starts from several placements:
    the present one, single devices, devices filled one after another in the best order found, shortest paths of a
    token from device to device at several prices of memory, and shares in proportion to speed. It descends from each
    by moves of blocks, targets, layers and patterns of layers, and anneals the best results. Memory has a price that
    rises towards the budget.

    Then it weighs the tokens after the interval, at the latency expected for them: caches grow to the run's end, and
    `Outlook` expects rates and memory from past observations. `horizon` says how much the present interval may cost
    more than its best for their sake: nothing with `interval`, 1.5 % with `near`, anything with `run`. `effort`
    multiplies the number of moves tried.

    With `observation: measured` it heeds how sure estimates are. A placement that fits is kept unless moving gains more
    than `hysteresis` times the largest spread of the rates that it depends on. `margin` is the share of each device's
    memory that stays free where a placement can be found so; it is the spread of the memory's estimate where that is
    larger, unless it is 0.
    """

    name = "headroom"
    schedule_only = True  # its search does not know `cost: paper`

    def __init__(
        self, horizon: str = "near", effort: float = 1.0, margin: float = 0.0, hysteresis: float = 0.1
    ) -> None:
        if horizon not in HORIZONS:
            raise ConfigError(f"policy headroom: horizon is {horizon!r}, and can be {', '.join(HORIZONS)}")
        if isinstance(effort, bool) or not isinstance(effort, int | float) or not 0 < effort <= MOST_EFFORT:
            raise ConfigError(
                f"policy headroom: effort is {effort!r}, and must be a number above 0 and up to {MOST_EFFORT}"
            )
        for name, value, most in (("margin", margin, MOST_MARGIN), ("hysteresis", hysteresis, MOST_HYSTERESIS)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise ConfigError(f"policy headroom: {name} is {value!r}, and must be a number from 0 to {most:g}")
        self._horizon = horizon
        self._effort = float(effort)
        self._margin, self._hysteresis = float(margin), float(hysteresis)
        self._seed = 0
        self._outlook = Outlook()

    def reset(self, seed: int) -> None:
        """Begin a run: forget what was observed, and let the annealing draw from `seed`."""
        from testbed.placement.annealing.search import warm_up

        warm_up()
        self._seed = seed
        self._outlook = Outlook()

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Find the best placement that can be carried out from the present one; raises Infeasible."""
        expected = self._outlook.after(observation)
        cautious = with_margin(observation, self._margin)
        if cautious is not observation:
            with suppress(Infeasible):
                return self._decide(cautious, placement, expected)
        return self._decide(observation, placement, expected)

    def _decide(self, observation: Observation, placement: Placement | None, expected: Observation | None) -> Placement:
        """The best placement found, or the present one where moving gains too little to be sure; raises Infeasible."""
        wanted = decide_on_useful(observation, placement, lambda seen: self._best(seen, placement, expected), self.name)
        if placement is not None and not is_worth_moving(observation, placement, wanted, self._hysteresis):
            return placement
        return wanted

    def _best(self, observation: Observation, placement: Placement | None, expected: Observation | None) -> Placement:
        """The best placement found on these devices; `expected` is what comes after the interval, None for nothing."""
        from testbed.placement.annealing.problem import only_worth_trying

        if too_little_memory(observation) is not None:
            return self._any(observation, placement)
        near, found = only_worth_trying(cost_model(observation), placement), None
        if len(near.devices) < len(observation.devices):
            found = self._searched(near, placement, expected, observation)
        return found or self._searched(observation, placement, expected) or self._any(observation, placement)

    def _searched(
        self,
        observation: Observation,
        placement: Placement | None,
        expected: Observation | None,
        fleet: Observation | None = None,
    ) -> Placement | None:
        """The best placement found on these devices, or None. Without `fleet`, of which they are a part, all count."""
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
        fallback = None if fleet else lambda: places_of(model, self._any(observation, placement))
        devices = len((fleet or observation).devices)
        result = search(problem, state, objective, self._effort, fallback, devices)
        if placement is not None and any(half.partial for half in model.halves):
            return best_assigned(problem, state, BlockAssigner(problem, model, placement), result, objective)
        if not result.placements:
            return None
        return placement_of(problem, model, placement, result.placements[0].places)

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
