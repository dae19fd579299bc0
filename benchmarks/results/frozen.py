"""Policies that place once and then keep what they have, to see what migration is worth:
`testbed replay experiments/quickstart.yaml --policy benchmarks/results/frozen.py:HeadroomFrozen`.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.observation import Observation, Policy
from testbed.placement.policies.headroom import Headroom
from testbed.placement.policies.resource_aware import ResourceAware


class Frozen:
    """The first placement of another policy, for the whole run."""

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.name = f"{inner.name}-frozen"

    def reset(self, seed: int) -> None:
        """As the inner policy."""
        self.inner.reset(seed)

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The inner policy's first placement, and then always the present one."""
        return self.inner.decide(observation, None) if placement is None else placement


class HeadroomFrozen(Frozen):
    """Headroom's first placement."""

    def __init__(self) -> None:
        super().__init__(Headroom())


class ResourceAwareFrozen(Frozen):
    """resource-aware's first placement."""

    def __init__(self) -> None:
        super().__init__(ResourceAware())
