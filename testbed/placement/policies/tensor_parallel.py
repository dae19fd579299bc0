"""`tensor-parallel`: every layer in equal parts on all devices.

Source: Shoeybi et al., *Megatron-LM*, arXiv 1909.08053. The heads and FFN columns of every layer are divided evenly,
and partial results are added up twice in a layer. Where it had to be interpreted:

- *The all-reduce* goes through a hub here: results meet at one device per layer, which sends x on to all. With
  `exchange: all-to-all` each device sends its partial sums to all others, and each adds them up.
- *What cannot be divided* (the projection, the sums, and the whole FFN while `ffn_shards` is 1) is on the layer's hub.
  Each device is the hub of an equal run of layers.
- *Uneven numbers*: what is left over goes to the devices in turn, layer after layer.
- *Memory*: a device that cannot hold its part gives blocks away, each to the least loaded device where it fits.
- *Later decisions*: equal parts do not depend on rates, so only what no longer fits moves, by the cheapest repair.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import Draft
from testbed.placement.local.proportional import split_in_proportion
from testbed.placement.local.repair import repair
from testbed.placement.observation import Observation


class TensorParallel:
    """Equal parts of every layer on every device; each device is the hub of a run of layers."""

    name = "tensor-parallel"
    needs_links = False

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Split every layer, or repair the present placement."""
        change = self._split if placement is None else self._repair
        return decide_on_draft(observation, placement, change, self.name, for_work=True)

    def _split(self, draft: Draft) -> None:
        devices = len(draft.devices)
        hubs = [layer * devices // draft.layers for layer in range(draft.layers)]
        split_in_proportion(draft, [1.0] * devices, hubs, self.name)

    def _repair(self, draft: Draft) -> None:
        repair(draft, self.name)
