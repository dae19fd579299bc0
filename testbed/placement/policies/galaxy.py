"""`galaxy`: every layer on all devices, in proportion to what each can compute.

Source: Ye et al., *Galaxy: A Resource-Efficient Collaborative Edge AI System for In-situ Transformer Inference*, arXiv
2405.17245: attention heads and FFN columns of every layer in proportion to the devices' measured capacity; devices
that would run out of memory hand their overflow to the others; two synchronisations per layer. Where it had to be
interpreted:

- *Capacity* is 1 / (time of one whole layer on the device), at the run's present length.
- *Rebalancing* goes block by block: a device without memory gives away FFN shards first (they are the finest), then
  heads, to the device with room whose memory is least loaded for its capacity.
- *Sequence parallelism* between the two synchronisations splits tokens over devices. In decode there is one token, so
  its row is on one device, the layer's hub: results meet there, and it sends x on to all. The overlap of tiles of
  a sequence with their transfer does not exist at length one either.
- *Hubs*: runs of layers in proportion to capacity, where the FFN is whole (`ffn_shards: 1`) and so is the hub's to
  compute; with shards one hub for all layers, the one with which the cost model predicts the fastest token. With
  `exchange: all-to-all` there is none: each device keeps x and adds up for itself.
- *Later decisions*: the paper plans once. Here capacity is looked at again at each boundary, and a new plan is carried
  out where it fits beside the old one and the interval is predicted to cost less with it, migration included.
  What no longer fits moves in any case, by the cheapest repair.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.local.draft import Draft, decide_on_draft
from testbed.placement.local.improve import WORTHWHILE_S, repair
from testbed.placement.local.proportional import apportion, split_in_proportion
from testbed.placement.observation import Observation


class Galaxy:
    """Heads and FFN shards in proportion to capacity, with memory-aware rebalancing."""

    name = "galaxy"

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Share out in proportion to capacity, again where that pays, and repair what must be."""
        fill = self._place if placement is None else self._plan_again
        return decide_on_draft(observation, placement, fill, self.name, for_work=True)

    def _place(self, draft: Draft) -> None:
        weights = capacities(draft)
        if not draft.shards or not draft.hub:
            runs = apportion(draft.layers, weights)
            hubs = [device for device, run in enumerate(runs) for _ in range(run)]
            split_in_proportion(draft, weights, hubs, self.name)
            return
        best: tuple[float, int] | None = None
        for hub in range(len(weights)):
            draft.clear()
            try:
                split_in_proportion(draft, weights, [hub] * draft.layers, self.name)
            except Infeasible:
                continue
            if best is None or draft.latency < best[0]:
                best = (draft.latency, hub)
        draft.clear()
        split_in_proportion(draft, weights, [best[1] if best else draft.model.source] * draft.layers, self.name)

    def _plan_again(self, draft: Draft) -> None:
        stays, cost, model = not draft.overloaded(), draft.cost, draft.model
        fresh = Draft(model, None, None)
        try:
            self._place(fresh)
            planned = fresh.placement(None).devices
            moves = [(slot, model.index[planned[block]]) for slot, block in enumerate(draft.blocks)]
        except Infeasible:
            moves = []
        undo = draft.try_shifts(moves)
        if undo is not None and (draft.overloaded() or (stays and draft.cost >= cost - WORTHWHILE_S)):
            draft.take_back(undo)
        if draft.overloaded():
            repair(draft, self.name)


def capacities(draft: Draft) -> list[float]:
    """1 / seconds of one whole layer, by device."""
    length = draft.model.lengths[0]
    seconds = [draft.model.seconds(block.kind, length) for block in draft.blocks[: draft.stride]]
    return [1 / sum(block[device] for block in seconds) for device in range(len(draft.budgets))]
