"""A policy that places once and then keeps what it has, to see what migration is worth:
`testbed replay experiments/quickstart.yaml --policy benchmarks/results/frozen.py:ResourceAwareFrozen`.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.observation import Observation
from testbed.placement.policies.resource_aware import ResourceAware


class ResourceAwareFrozen:
    """resource-aware's first placement, for the whole run."""

    name = "resource-aware-frozen"

    def __init__(self) -> None:
        self.inner = ResourceAware()

    def reset(self, seed: int) -> None:
        """As the inner policy."""
        self.inner.reset(seed)

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The inner policy's first placement, and then always the present one."""
        return self.inner.decide(observation, None) if placement is None else placement
