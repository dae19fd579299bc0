"""Ways to cut and place a model on devices, and how long a token takes in each.

A way is a policy with a partition. The best way is the quickest that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from testbed.controller.policy_call import reset_policy
from testbed.errors import ConfigError
from testbed.experiment.cuts import check_cuts
from testbed.placement.blocks import WHOLE, Exchange, Partition, Placement, count_blocks, vocab_rows
from testbed.placement.cost.memory import Infeasible, shortages
from testbed.placement.cost.model import prefill_latency, token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan
from testbed.placement.policies import make_policy
from testbed.shape import ModelShape

MOST_PLANNED_BLOCKS = 4096  # of a cut, so that a plan for 25 devices takes seconds
MANY = 8  # devices; with more of them a search takes longer, and what is searched often gets less effort
PREFILL_CHUNK = 32  # rows, as in an experiment that says nothing else


def light_effort(devices: int) -> float:
    """The effort, of the usual one, for searches of which a plan makes many."""
    return min(1.0, MANY / devices)


class Way(NamedTuple):
    """How a model may be cut and placed."""

    name: str
    policy: str
    cut: bool  # layers are cut into shards and rows, not only into heads
    exchange: Exchange = "hub"


ONE = Way("all on one device", "single", False)
WAYS: tuple[Way, ...] = (
    ONE,
    Way("whole layers, one device after another", "layerwise", False),
    Way("equal parts of every layer on all devices", "tensor-parallel", True, "all-to-all"),
    Way("parts of every layer, by speed", "galaxy", True, "all-to-all"),
    Way("heads and whole FFNs, searched", "headroom", False),
    Way("heads and shards, searched", "headroom", True),
)


@dataclass(frozen=True)
class Placed:
    """A model, placed in one way."""

    way: Way
    observation: Observation
    placement: Placement
    plan: Plan
    token_s: float

    def first_token_s(self) -> float:
        """Seconds from the prompt to the first token."""
        return prefill_latency(self.observation, self.plan, PREFILL_CHUNK)


def partition_of(way: Way, shape: ModelShape, devices: int) -> Partition | None:
    """How a way cuts this model for so many devices; None if its formats or its size do not allow it."""
    if not way.cut:
        return WHOLE
    shards = 1 << max(3, (2 * devices - 1).bit_length())
    while shards > 1:
        vocab = shards if (shards - 1) * vocab_rows(shape, Partition(vocab_shards=shards)) < shape.vocab else 1
        partition = Partition(shards, True, vocab, way.exchange)
        divides = shape.ffn_width % shards == 0 and count_blocks(shape, partition) <= MOST_PLANNED_BLOCKS
        with suppress(ConfigError):
            check_cuts(shape, partition, str)
            if divides:
                return partition
        shards //= 2
    return None


def place(observation: Observation, way: Way, length: int, effort: float = 1.0) -> Placed | None:
    """The model placed in this way, with the time of a token that sees `length` positions; None if it does not fit.

    Searches look at `effort` times the usual number of moves.
    """
    partition = partition_of(way, observation.shape, len(observation.devices))
    if partition is None or (way.cut and len(observation.devices) == 1):
        return None
    seen = replace(observation, partition=partition)
    if way.policy == "headroom":
        return _searched(seen, way, length, effort)
    placement = _decided(way.policy, {}, seen)
    return None if placement is None else placed(way, seen, placement, length)


def _searched(seen: Observation, way: Way, length: int, effort: float) -> Placed | None:
    """The quickest found for tokens around the timed one; where that has no room for all positions, for all of them.

    The mean token of a long context reads caches so large that another placement may suit it.
    """
    around = replace(seen, interval=max(1, 2 * (length - seen.prompt_tokens)))
    for looked_at in (around, seen):
        placement = _decided("headroom", {"effort": effort, "horizon": "interval"}, looked_at)
        if placement is not None and not shortages(seen, None, placement):
            return placed(way, seen, placement, length)
    return None


def _decided(policy_name: str, options: dict[str, object], seen: Observation) -> Placement | None:
    policy = make_policy(policy_name, options)
    reset_policy(policy, 0, seen)
    try:
        return policy.decide(seen, None)
    except Infeasible:
        return None


def placed(way: Way, observation: Observation, placement: Placement, length: int) -> Placed:
    """A given placement on an observation with the way's partition."""
    plan = make_plan(observation, placement)
    return Placed(way, observation, placement, plan, token_latency(observation, plan, length))


def place_all(observation: Observation, length: int, ways: Sequence[Way] = WAYS, effort: float = 1.0) -> list[Placed]:
    """The model placed in each way in which it fits."""
    return [found for way in ways if (found := place(observation, way, length, effort)) is not None]


def quickest(found: Iterable[Placed]) -> Placed:
    """The quickest of some, of which there must be one; the first of equals, which is the simpler one."""
    return min(found, key=lambda one: one.token_s)
