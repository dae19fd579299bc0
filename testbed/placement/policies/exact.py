"""`exact`: the optimum of each decision, on a star: the yardstick for all other policies.

It minimises the cost of the coming interval: migration, then the interval's tokens at the mean of its first and last
one, the LM head left out. It does so among all placements that fit, during migration and at the interval's end. It
looks no further, so over a whole run another policy can do better; `exact-offline` tells how much better. How the
optimum is found and proved: `testbed.placement.exact`.

`class` restricts it to one class of placements, and the result is the optimum of that class:

- `single`: everything on one device;
- `layer`: every layer whole, each on any device;
- `head`: the heads of a layer anywhere, its proj (or attention sum) anywhere, its FFN with all shards and their sum
  on one device;
- `shard`: the heads of a layer with its proj on one device, FFN shards and their sum anywhere;
- `any`: every placement there is.

So single ⊂ layer ⊂ head ⊂ any and layer ⊂ shard ⊂ any.

`limit` is the time one decision may take, a duration or seconds; it should be under the experiment's `decision_limit`.
When it is over, the best placement found so far is taken, and `last.gap` says how far from the optimum it can be at
most. FFN shards are told apart while devices ** shards <= 4096. With more of them, shards are assumed to be aligned,
and `last.gap` still holds for what was proved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement, pinned_bytes
from testbed.placement.cost.memory import (
    Infeasible,
    Shortage,
    any_placement,
    nothing_fits,
    shortages,
    too_little_memory,
)
from testbed.placement.exact.classes import PlacementClass
from testbed.placement.observation import Observation, Proof
from testbed.placement.policies.headroom import Headroom
from testbed.placement.policy_options import duration_option
from testbed.placement.useful import with_room

LIMIT_S = 50.0  # under the default decision_limit of 60 s


class Exact:
    """The cheapest placement of a class for the coming interval; `last` has what was proved of the last decision."""

    name = "exact"
    remembers = False

    def __init__(self, class_: PlacementClass = "any", limit: object = None) -> None:
        if class_ not in get_args(PlacementClass):
            known = ", ".join(get_args(PlacementClass))
            raise ConfigError(f"policy exact: class is {class_!r}, and can be {known}")
        limit_s = duration_option(self.name, "limit", limit)
        self._limit_s = LIMIT_S if limit_s is None else limit_s
        self._class: PlacementClass = class_
        self._start = Headroom(horizon="interval")
        self.last: Proof | None = None

    def reset(self, seed: int) -> None:
        """Begin a run: the search for a placement to start from draws from `seed`."""
        if self._class == "any":
            self._start.reset(seed)  # which compiles what is not compiled yet
        self.last = None

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Find the optimum; raises Infeasible when there is none, and ConfigError where the network is not a star."""
        self.last = None
        observation = with_room(observation, placement)
        if too_little_memory(observation) is not None:
            raise self._refusal(observation, placement)
        if observation.cost == "paper":
            return self._of_one_layer(observation, placement)
        from testbed.placement.exact.solve import optimum  # loads numpy

        found = optimum(observation, placement, self._class, self._limit_s, self._starts(observation, placement))
        if found.placement is None:
            raise self._refusal(observation, placement)
        self.last = Proof(found.bound_s, found.gap, found.proved)
        return found.placement

    def _of_one_layer(self, observation: Observation, placement: Placement | None) -> Placement:
        """The optimum under `cost: paper`, which has a search of its own."""
        from testbed.placement.exact.one_layer import one_layer_optimum  # loads numpy

        if self._class != "any":
            raise ConfigError(f"policy exact: class is {self._class!r}, but cost: paper knows 'any' only")
        best, cost_s = one_layer_optimum(observation, placement)
        if best is None:
            raise self._refusal(observation, placement)
        self.last = Proof(cost_s, 0.0, True)
        return best

    def _starts(self, observation: Observation, placement: Placement | None) -> Iterator[Placement]:
        """A good placement to start from. It saves time, and it is the result if nothing better is found in time."""
        if self._class != "any":
            return
        try:
            yield self._start.decide(observation, placement)
        except Infeasible:
            return

    def _refusal(self, observation: Observation, placement: Placement | None) -> Infeasible:
        kind = "placement" if self._class == "any" else f"placement of class {self._class}"
        text = f"exact found no {kind} that fits after {observation.tokens_done} tokens"
        why = nothing_fits(observation)
        if why is not None:
            text += f": {why}"
        elif placement is not None:
            text += ", the move to it included: give the devices more memory"
        return Infeasible(text, _largest_shortage(observation, placement))


def _largest_shortage(observation: Observation, placement: Placement | None) -> Shortage:
    """The largest shortage of the present placement, or of some placement; else the need of what must be pinned."""
    wanted = placement or any_placement(observation)
    found = shortages(observation, None, wanted) if wanted is not None else []
    if found:
        return max(found, key=lambda shortage: shortage.need_bytes - shortage.budget_bytes)
    roomiest = max(observation.devices, key=lambda view: view.available_bytes)
    need = pinned_bytes(observation.shape, observation.partition)
    return Shortage(roomiest.name, need, roomiest.available_bytes, "what must be placed fits nowhere")
