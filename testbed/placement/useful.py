"""Which devices a policy thinks of: those that can hold a block and be reached.

A rival's authors assume devices that take part; equal or proportional parts of a layer mean nothing on one that has no
memory for any part, or behind a link that carries nothing. Observations without such devices stay the same object, so
that decisions about them cannot change. The source, where x begins and ends, and devices that hold blocks always count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from testbed.placement.blocks import Placement
from testbed.placement.cost.latency import OUTAGE_BPS
from testbed.placement.cost.memory import kinds_at, rooms_for
from testbed.placement.observation import Observation


def with_room(observation: Observation, placement: Placement | None, for_work: bool = False) -> Observation:
    """Without devices that have no room for the smallest block at the interval's end.

    `for_work`: sums do not count as blocks; a device that can only add up does no part of a layer.
    """
    kinds = kinds_at(observation, observation.final_length)
    least = min(size for kind, size, _ in kinds if not (for_work and kind == "sum"))
    rooms = zip(observation.devices, rooms_for(observation), strict=True)
    return _only(observation, placement, {view.name for view, room in rooms if room >= least})


def reachable(observation: Observation, placement: Placement | None) -> Observation:
    """Without devices to which, or from which, a link of the way to the source carries nothing."""
    source = observation.source
    names = {
        view.name
        for view in observation.devices
        if view.name == source
        or all(
            leg.rate_bps > OUTAGE_BPS
            for path in (observation.path(source, view.name), observation.path(view.name, source))
            for leg in path
        )
    }
    return _only(observation, placement, names)


def same_devices(observation: Observation, other: Observation) -> Observation:
    """The first with the devices that the second has."""
    return _only(observation, None, {view.name for view in other.devices})


def _only(observation: Observation, placement: Placement | None, names: Collection[str]) -> Observation:
    held = set(placement.devices.values()) if placement is not None else set()
    names = {*names, *held, observation.source}
    kept = tuple(view for view in observation.devices if view.name in names)
    return observation if len(kept) == len(observation.devices) else replace(observation, devices=kept)
