"""A policy that places once and then never migrates, to measure what migration is worth:
`testbed replay experiments/gpt2-star4.yaml --policy benchmarks/results/frozen.py:PaperSearchFrozen`.
"""

from __future__ import annotations

from testbed.placement.blocks import Placement
from testbed.placement.observation import Observation
from testbed.placement.policies.paper_search import PaperSearch


class PaperSearchFrozen:
    """Keeps the first placement of `paper-search` for the whole run."""

    name = "paper-search-frozen"

    def __init__(self) -> None:
        self.inner = PaperSearch()

    def reset(self, seed: int) -> None:
        """Reset the inner policy."""
        self.inner.reset(seed)

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The inner policy's first placement, and later the present placement."""
        return self.inner.decide(observation, None) if placement is None else placement
