"""Where replicas of KV caches are kept, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from testbed.placement.blocks import Block, Placement, replica_bytes, state_bytes
from testbed.placement.cost.copying import BULK_ROWS_RATIO, LINK_SHARE
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import token_latency
from testbed.placement.observation import Hop, Observation
from testbed.wire import OUTAGE_BPS


def replica_homes(
    observation: Observation, placement: Placement, present: Mapping[Block, str], gone: Collection[str] = ()
) -> dict[Block, str]:
    """For each head a device that keeps a replica of its cache, as far as there is memory until the run's end.

    A replica stays where it is. A new one goes where the other heads of its device have theirs, or else to the device
    with the most free memory. The source's heads have none, because a run does not survive its loss.
    """
    length = observation.prompt_tokens + observation.tokens_max - 1
    size = replica_bytes(observation.shape, length)
    needs = device_needs(observation, placement, length)
    free = {view.name: view.available_bytes - needs[view.name] for view in observation.devices if view.name not in gone}
    heads = sorted(block for block in placement.devices if block.kind == "head")
    found: dict[Block, str] = {}

    def put(block: Block, home: str | None) -> bool:
        fits = home is not None and home != placement.devices[block] and free.get(home, 0) >= size
        if fits and home is not None:
            found[block] = home
            free[home] -= size
        return fits

    wanting = [block for block in heads if placement.devices[block] not in (observation.source, *gone)]
    rest = [block for block in wanting if not put(block, present.get(block))]
    usual: dict[str, str] = {}
    for block in rest:
        owner = placement.devices[block]
        if put(block, usual.get(owner)):
            continue
        best = max((name for name in free if name != owner), key=lambda name: free[name], default=None)
        if put(block, best) and best is not None:
            usual[owner] = best
    return dict(sorted(found.items()))


def affordable(observation: Observation, placement: Placement, homes: Mapping[Block, str]) -> dict[Block, str]:
    """The replicas whose new rows take no more than copying may take of each link (`LINK_SHARE`)."""
    token_s = token_latency(observation, placement, observation.length)
    pairs: dict[tuple[str, str], int] = {}
    for block, home in homes.items():
        pair = placement.devices[block], home
        pairs[pair] = pairs.get(pair, 0) + state_bytes(observation.shape, block, 1)
    asked: dict[Hop, float] = {}
    for pair, size in pairs.items():
        for leg in observation.path(*pair):
            asked[leg.hop] = asked.get(leg.hop, 0.0) + size * BULK_ROWS_RATIO * 8 / token_s
    dear = {
        pair for pair in pairs
        if any(asked[leg.hop] > LINK_SHARE * max(leg.rate_bps, OUTAGE_BPS) for leg in observation.path(*pair))
    }  # fmt: skip
    return {block: home for block, home in homes.items() if (placement.devices[block], home) not in dear}
