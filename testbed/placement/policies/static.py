"""`static`: one placement for the whole run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement, pinned_bytes
from testbed.placement.cost.memory import Infeasible
from testbed.placement.cost.model import interval_cost
from testbed.placement.observation import Observation, Policy
from testbed.placement.patterns import check_pattern, expand_patterns
from testbed.placement.policy_options import share_option
from testbed.strict_yaml import shown


class Static:
    """Places once and never moves: as `placement` says, else as the best of the `candidates` does.

    `placement` maps block patterns to devices, as in `patterns.expand_patterns`. It is carried out as written; whether
    it fits is for the run to find out. Without one, every candidate is asked for its first placement, and the one that
    is predicted to be fastest over the whole run is taken. It fits at the run's last token where any does, since
    nothing will ever move. `reserve` is a share of each device's memory for blocks that stays free, for what later
    decreases may take; then only placements that leave it free are looked for.
    """

    name = "static"

    def __init__(
        self,
        placement: Mapping[str, str] | None = None,
        candidates: Sequence[Callable[[], Policy]] = (),
        reserve: object = 0.0,
    ) -> None:
        self._reserve = share_option(self.name, "reserve", reserve)
        if placement is not None and self._reserve:
            raise ConfigError(f"policy {self.name}: reserve is {shown(reserve)}, but `placement` says where blocks go")
        self._seed = 0
        self._patterns = dict(placement) if placement is not None else None
        self._candidates = candidates
        self.improves_drafts = placement is None  # some candidates do
        self.needs_links = "first" if placement is None else False  # candidates look at links for their first placement
        for pattern in self._patterns or ():
            check_pattern(pattern)

    def reset(self, seed: int) -> None:
        """Begin a run. The candidates are asked with its seed, so that they place as they would in it."""
        if self._patterns is None:
            from testbed.placement.annealing.search import warm_up

            warm_up()
        self._seed = seed

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The first placement, and then always the present one."""
        if placement is not None:
            return placement
        if self._patterns is not None:
            return Placement(expand_patterns(observation, self._patterns))
        observation = self._without_reserve(observation)
        whole_run = replace(observation, interval=max(1, observation.tokens_max - observation.tokens_done))
        try:
            return self._best(whole_run)
        except Infeasible:
            return self._best(observation)

    def _without_reserve(self, observation: Observation) -> Observation:
        """The observation with the memory that may be used; what is pinned at the source is not part of the reserve."""
        if not self._reserve:
            return observation
        kept = pinned_bytes(observation.shape, observation.partition)
        pinned = [kept if view.name == observation.source else 0 for view in observation.devices]
        free = [max(0, view.available_bytes - own) for view, own in zip(observation.devices, pinned, strict=True)]
        views = (
            replace(view, available_bytes=view.available_bytes - math.ceil(self._reserve * room))
            for view, room in zip(observation.devices, free, strict=True)
        )
        return replace(observation, devices=tuple(views))

    def _best(self, observation: Observation) -> Placement:
        """The candidates' first placement that is predicted to be fastest; raises Infeasible if none has one."""
        found: list[Placement] = []
        refusal: Infeasible | None = None
        for make in self._candidates:
            if observation.cost == "paper" and getattr(make, "schedule_only", False):
                continue
            try:
                policy = make()
                policy.reset(self._seed)
                found.append(policy.decide(observation, None))
            except Infeasible as error:
                refusal = error if error.shortage is not None else refusal or error
        if not found and refusal is not None:
            raise refusal
        return min(found, key=lambda placement: interval_cost(observation, None, placement))
