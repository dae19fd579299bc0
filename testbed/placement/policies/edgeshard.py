"""`edgeshard`: layer-wise partitioning by dynamic programming.

Source: Zhang, Cao, Shen, Cui, *EdgeShard: Efficient LLM Inference via Collaborative Edge Computing*, arXiv
2405.14371, the algorithm for latency: `DP(i,j) = min over k of DP(i-1,k) + t_comp(i,j) + t_comm(i-1,k,j)`, the first
layer at the source, the generated token sent back there in the end.

Where it had to be interpreted:

- *Layers* are whole: heads, projection and FFN of a layer are on one device. Embedding and LM head are at the source
  in every placement here, so its "first layer at the source" is this model's first decoder layer.
- *Memory*: an entry DP(i,j) remembers how many layers its own best path has put on each device, and k may be extended
  to j only if j has room for one more. That is not exact: a dearer path that left more room is forgotten, and so an
  assignment can be missed. Where it ends in nothing, the layers are dealt in order to the devices in descending
  room, the source first.
- *The first layer at the source* keeps the prompt there in the paper. `pin_source: false` lets the programme choose. In
  a model of one layer the pin would decide everything, so it is off there unless `pin_source: true` asks for it.
- *A source without room for one layer*: the pin is dropped, because the prompt's embedding stays at the source anyway.
- *Later decisions*: the paper places once, offline, from profiles. Here the same programme runs again at every
  boundary, with present rates and with room for old and new blocks at once until commit; its result is taken where
  the interval is predicted to cost less with it, migration included, or where the present placement no longer fits.
"""

from __future__ import annotations

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement
from testbed.placement.layers.whole import WholeLayers
from testbed.placement.local.draft import UNPLACED, Draft, decide_on_draft
from testbed.placement.local.improve import WORTHWHILE_S
from testbed.placement.observation import Observation
from testbed.strict_yaml import shown

Entry = tuple[float, tuple[int, ...]]  # (seconds, device of each layer so far)


class EdgeShard:
    """The dynamic programme over layers and devices. `pin_source`: the first layer stays at the source.

    By default it does, as in the paper, but in a model of one layer: there it would mean everything on the source.
    """

    name = "edgeshard"

    def __init__(self, pin_source: bool | None = None) -> None:
        if pin_source is not None and not isinstance(pin_source, bool):
            raise ConfigError(f"policy {self.name}: pin_source is {shown(pin_source)}, but it must be true or false")
        self._pin_source = pin_source

    def reset(self, seed: int) -> None:
        """Nothing is remembered and nothing is random."""

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """Place by dynamic programming, or again where that pays or must."""
        return decide_on_draft(observation, placement, self._choose, self.name)

    def _choose(self, draft: Draft) -> None:
        layers = WholeLayers(draft)
        stays = bool(draft.old) and not draft.overloaded()
        pinned = layers.count > 1 if self._pin_source is None else self._pin_source
        found = shortest(layers, draft.model.source, pinned) or dealt(layers, draft.model.source)
        if found is None:
            if stays:
                return
            raise layers.refuse(self.name)
        before, cost = list(draft.where), draft.cost
        layers.put(found)
        if stays and draft.cost >= cost - WORTHWHILE_S:
            draft.apply([(slot, device) for slot, device in enumerate(before) if draft.where[slot] != device])


def fits_one_more(layers: WholeLayers, path: tuple[int, ...], device: int) -> bool:
    """Whether the next layer of a path may go to `device`, beside those it already put there."""
    here = [layer for layer, where in enumerate((*path, device)) if where == device]
    coming = sum(layers.old[layer] != device for layer in here)
    return len(here) <= layers.room[device] and (coming == 0 or coming <= layers.incoming[device])


def shortest(layers: WholeLayers, source: int, pinned: bool = True) -> tuple[int, ...] | None:
    """The dynamic programme's path, a device for each layer; None where its memory rule ends in nothing."""
    devices = range(len(layers.home))
    first = [source] if pinned and fits_one_more(layers, (), source) else list(devices)
    table: dict[int, Entry] = {j: (layers.step[source][j], (j,)) for j in first if fits_one_more(layers, (), j)}
    for _ in range(1, layers.count):
        following: dict[int, Entry] = {}
        for j in devices:
            for k, (seconds, path) in table.items():
                total = seconds + layers.step[k][j]
                if (j not in following or total < following[j][0]) and fits_one_more(layers, path, j):
                    following[j] = (total, (*path, j))
        table = following
    ends = [(seconds + layers.home[j], j) for j, (seconds, _) in table.items()]
    return table[min(ends)[1]][1] if ends else None


def dealt(layers: WholeLayers, source: int) -> tuple[int, ...] | None:
    """Layers in order to the devices in descending room, the source first; layers that stay take up room too."""
    order = sorted(range(len(layers.home)), key=lambda j: (j != source, -layers.room[j], j))
    path: tuple[int, ...] = ()
    for layer in range(layers.count):
        home = layers.old[layer]
        order_now = ([home] if home != UNPLACED else []) + order
        device = next((j for j in order_now if fits_one_more(layers, path, j)), None)
        if device is None:
            return None
        path = (*path, device)
    return path
