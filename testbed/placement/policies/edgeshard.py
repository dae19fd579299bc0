"""`edgeshard`: layer-wise partitioning by dynamic programming.

Source: Zhang, Cao, Shen, Cui, *EdgeShard: Efficient LLM Inference via Collaborative Edge Computing*, arXiv
2405.14371, the algorithm for latency: `DP(i,j) = min over k of DP(i-1,k) + t_comp(i,j) + t_comm(i-1,k,j)`, the first
layer at the source, the generated token sent back there in the end.

Where it had to be interpreted:

- *Layers* are whole: heads, projection and FFN of a layer are on one device. Embedding and LM head are at the source
  in every placement here, so its "first layer at the source" is this model's first decoder layer.
- *Memory*: an entry DP(i,j) remembers how many layers its own best path has put on each device, and k may be extended
  to j only if one more fits there. That is not exact: a slower path that left more memory is forgotten, and so an
  assignment can be missed. If no path is left, the layers are dealt in order to the devices in descending space, the
  source first.
- *The first layer at the source* keeps the prompt there in the paper. With `pin_source: false` the program is free to
  choose. In a model of one layer the pin would decide everything, so there it is off unless `pin_source: true` asks
  for it.
- *A source without space for one layer*: the pin is dropped, because the prompt's embedding stays at the source anyway.
- *Throughput*: the paper's second algorithm, which fills a pipeline with many sequences, is refused: `mode: latency` is
  the only one, because a run here generates one sequence.
- *Later decisions*: the paper places once, offline, from profiles. Here the same program runs again at every boundary,
  with present rates, and with space for old and new blocks at once until commit. Its result is taken if the interval is
  predicted to cost less with it, migration included, or if the present placement no longer fits.
"""

from __future__ import annotations

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement
from testbed.placement.layers.dynamic_program import fastest_path, first_fit
from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.decision import decide_on_draft
from testbed.placement.local.draft import Draft
from testbed.placement.local.improve import WORTHWHILE_S
from testbed.placement.observation import Observation
from testbed.placement.policy_options import boolean_option
from testbed.strict_yaml import shown


class EdgeShard:
    """The dynamic program over layers and devices. `pin_source` keeps the first layer at the source.

    By default it does so, as in the paper, unless the model has only one layer: then everything would be at the source.
    """

    name = "edgeshard"

    def __init__(self, pin_source: bool | None = None, mode: object = "latency") -> None:
        if mode == "throughput":
            raise ConfigError(
                f"policy {self.name}: mode: throughput fills a pipeline with many sequences, and a run here generates "
                "one: use mode: latency"
            )
        if mode != "latency":
            raise ConfigError(f"policy {self.name}: mode is {shown(mode)}, but it must be latency")
        self._pin_source = None if pin_source is None else boolean_option(self.name, "pin_source", pin_source)

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place by dynamic programming, and place again where that pays or must be."""
        return decide_on_draft(observation, placement, self._choose, self.name)

    def _choose(self, draft: Draft) -> None:
        layers = WholeLayers(draft)
        stays = bool(draft.old) and not draft.overloaded()
        pinned = layers.count > 1 if self._pin_source is None else self._pin_source
        found = fastest_path(layers, draft.model.source, pinned) or first_fit(layers, draft.model.source)
        if found is None:
            if stays:
                return
            raise layers.refuse(self.name)
        before, cost = list(draft.where), draft.cost
        layers.put(found)
        if stays and draft.cost >= cost - WORTHWHILE_S:
            draft.become(before)
