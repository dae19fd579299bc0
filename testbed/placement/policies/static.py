"""`static`: one placement for the whole run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, Placement, blocks_of, is_pattern, matches
from testbed.placement.cost.memory import Infeasible
from testbed.placement.cost.model import interval_cost
from testbed.placement.observation import Observation

NOT_ASKED = ("static", "exact")  # itself, and one that may take minutes


class Static:
    """Places once and never moves: as `placement` says, else as the best of the other
    policies does (all but `exact`, which may take minutes).

    `placement` maps block patterns (`*`, `head(0,*)`, `ffn(*)`, `sum(*,ffn)`, exact names) to devices; later entries
    win and every block must be covered. It is carried out as written: whether it fits is for the run to find out.
    Without one, the placement fits at the run's last token where any does, since nothing will ever move.
    """

    name = "static"

    def __init__(self, placement: Mapping[str, str] | None = None) -> None:
        self._seed = 0
        self._patterns = dict(placement) if placement is not None else None
        for pattern in self._patterns or ():
            _check_pattern(pattern)

    def reset(self, seed: int) -> None:
        """Begin a run: the others are asked with its seed, and so place as they would in it."""
        if self._patterns is None:
            from testbed.placement.annealing.search import warm_up  # numba; a fixed placement does without

            warm_up()
        self._seed = seed

    def decide(self, observation: Observation, placement: Placement | None) -> Placement:
        """The first placement, and then always the present one."""
        if placement is not None:
            return placement
        if self._patterns is not None:
            return Placement(expand_patterns(observation, self._patterns))
        whole = replace(observation, interval=max(1, observation.tokens_max - observation.tokens_done))
        try:
            return _best(whole, self._seed)
        except Infeasible:
            return _best(observation, self._seed)


def _best(observation: Observation, seed: int) -> Placement:
    """The first placement that is predicted to be fastest, of all known policies that have one and decide quickly."""
    from testbed.placement.policies import POLICIES  # which has this module in it

    found: list[Placement] = []
    refusal: Infeasible | None = None
    for name, (factory, _) in POLICIES.items():
        if name in NOT_ASKED:
            continue
        try:
            policy = factory()
            policy.reset(seed)
            found.append(policy.decide(observation, None))
        except Infeasible as error:
            refusal = error if error.shortage is not None else refusal or error
    if not found and refusal is not None:
        raise refusal
    return min(found, key=lambda placement: interval_cost(observation, None, placement))


def expand_patterns(observation: Observation, patterns: Mapping[str, str]) -> dict[Block, str]:
    """Block -> device from block patterns, later entries winning; raises ConfigError naming what is wrong."""
    known = [view.name for view in observation.devices]
    blocks = blocks_of(observation.shape, observation.partition)
    devices: dict[Block, str] = {}
    for pattern, device in patterns.items():
        if device not in known:
            raise ConfigError(f"placement {pattern!r} names the device {device!r}: known are {', '.join(known)}")
        matched = [block for block in blocks if matches(pattern, block)]
        if not matched:
            raise ConfigError(
                f"placement {pattern!r} matches no block of {observation.shape.name}, which has "
                f"{observation.shape.layers} layers of {observation.shape.kv_heads} heads"
            )
        devices.update(dict.fromkeys(matched, device))
    for block in blocks:
        if block not in devices:
            raise ConfigError(f"placement leaves out {block}: add a pattern that covers it, such as '*'")
    return {block: devices[block] for block in blocks}


def _check_pattern(pattern: object) -> None:
    if not is_pattern(str(pattern)):
        raise ConfigError(
            f"placement {pattern!r} is not a block pattern: write '*', head(0,*), head(0,3), ffn(*), or with shards "
            "ffn(0,*) and sum(*,ffn)"
        )
