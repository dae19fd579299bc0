"""`tensor-parallel`: every layer in equal parts on all devices.

Source: Shoeybi et al., *Megatron-LM*, arXiv 1909.08053: heads and FFN columns of every layer are divided evenly, and
partial results are added up twice in a layer. Where it had to be interpreted:

- *The all-reduce* goes through a hub here: results meet at one device per layer, which sends x on to all. With
  `exchange: all-to-all` each device sends its partial sums to all others, and each adds them up.
- *What cannot be divided* (projection, sums, and the whole FFN while `ffn_shards` is 1) is on the layer's hub. Hubs are
  dealt in equal runs of layers, so that they too are equal parts.
- *Uneven numbers*: what is left over goes to the devices in turn, layer after layer.
- *Memory*: devices that cannot hold their part give blocks away, the least loaded device with room first.
- *Later decisions*: equal parts do not depend on rates, so only what no longer fits moves, by the cheapest repair.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.local.draft import Draft, decide_on_draft
from testbed.placement.local.improve import repair
from testbed.placement.local.proportional import split_in_proportion
from testbed.placement.observation import Observation


class TensorParallel:
    """Equal parts of every layer on every device, hubs dealt in runs of layers."""

    name = "tensor-parallel"

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Share out, or repair."""
        fill = self._share if placement is None else self._repair
        return decide_on_draft(observation, placement, fill, self.name, for_work=True)

    def _share(self, draft: Draft) -> None:
        devices = len(draft.budgets)
        hubs = [layer * devices // draft.layers for layer in range(draft.layers)]
        split_in_proportion(draft, [1.0] * devices, hubs, self.name)

    def _repair(self, draft: Draft) -> None:
        repair(draft, self.name)
