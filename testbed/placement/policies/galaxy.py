"""`galaxy`: every layer on all devices, in proportion to what each can compute.

Source: Ye et al., *Galaxy: A Resource-Efficient Collaborative Edge AI System for In-situ Transformer Inference*, arXiv
2405.17245. Attention heads and FFN columns of every layer are divided in proportion to the devices' measured capacity.
Devices that would run out of memory hand their overflow to the others. A layer has two synchronisations. Where it had
to be interpreted:

- *Capacity* is 1 / (time of one whole layer on the device), at the run's present length.
- *Rebalancing* goes block by block. A device without memory gives away FFN shards first, because they are the finest,
  and then heads. Each goes to that device where it fits whose memory is least loaded for its capacity.
- *Sequence parallelism* between the two synchronisations splits tokens over devices. In decode there is one token, so
  its row is on one device, the layer's hub: results meet there, and it sends x on to all.
- *Overlap*: Galaxy overlaps tiles of a prompt with their transfer. That is out: a prompt passes in chunks here, under
  every policy, and a single token has no tiles. So the comparison is about decode; `ttft_ms` says nothing of Galaxy.
- *Useless devices* take no part: those on which no head or FFN shard fits, and those behind an outage while the others
  suffice.
- *Hubs*: if the FFN is whole (`ffn_shards: 1`), its layer's hub computes it. So hubs are then dealt in runs of layers,
  in proportion to capacity. With shards, one device is the hub of all layers: the one with which the cost model
  predicts the fastest token. With `exchange: all-to-all` there is no hub; each device keeps x and adds up for itself.
- *Later decisions*: the paper places once. Here a new placement is made at each boundary, from the present
  capacities. It is carried out if it fits beside the old one and the interval is predicted to cost less with it,
  migration included. What no longer fits moves in any case, by the cheapest repair.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import Draft
from testbed.placement.local.improve import WORTHWHILE_S
from testbed.placement.local.proportional import apportion, split_in_proportion
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation


class Galaxy:
    """Heads and FFN shards in proportion to capacity, rebalanced where memory is short."""

    name = "galaxy"

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place in proportion to capacity, place again where that pays, and repair what no longer fits."""
        change = self._plan if placement is None else self._plan_again
        return decide_on_draft(observation, placement, change, self.name, for_work=True)

    def _plan(self, draft: Draft) -> None:
        weights = capacities(draft)
        if not draft.slots.shards_per_layer or not draft.slots.hub:
            runs = apportion(draft.layers, weights)
            hubs = [device for device, run in enumerate(runs) for _ in range(run)]
            split_in_proportion(draft, weights, hubs, self.name)
            return
        best: tuple[float, int] | None = None
        for hub in draft.devices:
            draft.clear()
            try:
                split_in_proportion(draft, weights, [hub] * draft.layers, self.name)
            except Infeasible:
                continue
            if best is None or draft.latency < best[0]:
                best = (draft.latency, hub)
        draft.clear()
        hub = best[1] if best else draft.model.source
        split_in_proportion(draft, weights, [hub] * draft.layers, self.name)

    def _plan_again(self, draft: Draft) -> None:
        stays, cost, model = not draft.overloaded(), draft.cost, draft.model
        fresh = Draft(model, None, None)
        try:
            self._plan(fresh)
            planned = fresh.placement(None).devices
            shifts = [(slot, model.index[planned[block]]) for slot, block in enumerate(draft.blocks)]
        except Infeasible:
            shifts = []
        undo = draft.try_shifts(shifts)
        if undo is not None and (draft.overloaded() or (stays and draft.cost >= cost - WORTHWHILE_S)):
            draft.take_back(undo)
        if draft.overloaded():
            repair(draft, self.name)


def capacities(draft: Draft) -> list[float]:
    """1 / (seconds of one whole layer), by device."""
    length = draft.model.lengths[0]
    seconds = [draft.model.seconds(draft.blocks[slot].kind, length) for slot in draft.slots.of_layer(0)]
    return [1 / sum(block[device] for block in seconds) for device in draft.devices]
