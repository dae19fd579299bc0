"""`exact`: the optimum of each decision, on a star: the yardstick for all other policies.

What costs least in the coming interval: migration, then the interval's tokens at the mean of its first and last one,
the LM head left out; among all placements that double residency and the interval's end leave. It sees no further, so
over a whole run another policy can do better (`exact-offline` tells how much better). How it is found and proved:
`testbed.placement.exact`.

`class` restricts it to one class of placements, whose optimum it then is:

- `single`: everything on one device;
- `layer`: every layer whole, each on any device;
- `head`: the heads of a layer anywhere, its proj (or attention sum) anywhere, its FFN with all shards and their sum
  on one device;
- `shard`: the heads of a layer with its proj on one device, FFN shards and their sum anywhere;
- `any`: every placement there is.

So single ⊂ layer ⊂ head ⊂ any and layer ⊂ shard ⊂ any.

`limit` is the time one decision may take, a duration or seconds; keep it under the experiment's `decision_limit`. After
it the best found so far is taken, and `last.gap` says how far from the optimum it can be at most. FFN shards are told
apart while devices ** shards <= 4096; more of them are taken to be aligned, and then the gap is what was proved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement, pinned_bytes
from testbed.placement.cost.memory import Infeasible, Shortage, any_placement, nothing_fits, shortages
from testbed.placement.exact.classes import PlacementClass
from testbed.placement.observation import Observation, Proof
from testbed.placement.policies.headroom import Headroom
from testbed.placement.policy_options import duration_option
from testbed.placement.useful import with_room

LIMIT_S = 50.0  # under the default decision_limit


class Exact:
    """The cheapest placement of a class for the coming interval; `last` is what was proved of the last decision."""

    name = "exact"

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
        """Begin a run: `seed` is that of the search for a placement to begin with."""
        if self._class == "any":
            self._start.reset(seed)  # which compiles what is not compiled yet
        self.last = None

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The optimum; raises Infeasible when there is none, and ConfigError where the network is not a star."""
        from testbed.placement.exact.solve import optimum  # loads numpy

        self.last = None
        observation = with_room(observation, placement)
        found = optimum(observation, placement, self._class, self._limit_s, self._starts(observation, placement))
        if found.placement is None:
            raise self._refusal(observation, placement)
        self.last = Proof(found.bound_s, found.gap, found.proved)
        return found.placement

    def _starts(self, observation: Observation, placement: Placement | None) -> Iterator[Placement]:
        """A good placement to begin with: it saves time, and is what is left when time is up."""
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
    """The shortage that most is missing in: of the present placement, else of some one on the roomiest device."""
    wanted = placement or any_placement(observation)
    found = shortages(observation, None, wanted) if wanted is not None else []
    if found:
        return max(found, key=lambda shortage: shortage.need_bytes - shortage.budget_bytes)
    roomiest = max(observation.devices, key=lambda view: view.available_bytes)
    need = pinned_bytes(observation.shape, observation.partition)
    return Shortage(roomiest.name, need, roomiest.available_bytes, "what must be placed fits nowhere")
