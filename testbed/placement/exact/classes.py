"""Classes of placements, each with an optimum of its own; `policies.exact` says what they mean."""

from __future__ import annotations

from typing import Literal

from testbed.placement.blocks import Placement, layer_blocks
from testbed.placement.observation import Observation

PlacementClass = Literal["single", "layer", "head", "shard", "any"]


def in_class(observation: Observation, placement: Placement, klass: PlacementClass) -> bool:
    """Whether a placement belongs to a class (see `policies.exact`)."""
    hubs: set[str] = set()
    for layer in range(observation.shape.layers):
        blocks = layer_blocks(observation.shape, observation.partition, layer)
        heads = observation.shape.kv_heads + 1
        where = [placement.devices[block] for block in blocks]
        attention, ffn = set(where[:heads]), set(where[heads:])
        if klass in ("single", "layer") and len(attention | ffn) > 1:
            return False
        if (klass == "head" and len(ffn) > 1) or (klass == "shard" and len(attention) > 1):
            return False
        hubs |= ffn
    return klass != "single" or len(hubs) == 1
