"""Which devices a policy considers: those that can hold a block and can be reached.

The authors of rival policies assume devices that take part. Equal or proportional parts of a layer mean nothing on a
device that has no memory for any part, or whose link carries nothing. The source, where x begins and ends, and devices
that hold blocks are always considered.

The devices considered are in the order of their names. So a topology's order of devices plays no part in any decision:
what breaks ties by index breaks them by name. If all devices are considered, and are in that order already, the
observation returned is the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

from testbed.natural import natural
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import Infeasible, kinds_at, refuse_shortages, rooms_for
from testbed.placement.observation import Observation
from testbed.wire import OUTAGE_BPS


def decide_on_useful(
    observation: Observation,
    placement: Placement | None,
    decide: Callable[[Observation], Placement],
    who: str,
    for_work: bool = False,
) -> Placement:
    """What `decide` answers when it is shown only the useful devices.

    Devices on which no block fits are left out; with `for_work`, a sum alone does not count. Devices that
    cannot be reached are left out as long as the others suffice. Raises Infeasible, naming `who`, if the answer does
    not fit.
    """
    able = with_room(observation, placement, for_work)
    at_hand = reachable(able, placement)
    if at_hand is not able:
        with suppress(Infeasible):
            return refuse_shortages(observation, placement, decide(at_hand), who)
    return refuse_shortages(observation, placement, decide(able), who)


def with_room(observation: Observation, placement: Placement | None, for_work: bool = False) -> Observation:
    """The observation without devices that cannot hold the smallest block at the interval's end.

    With `for_work`, sums do not count as blocks: a device that can only add up does no part of a layer. The devices
    left are in the order of their names.
    """
    observation = in_order(observation)
    kinds = kinds_at(observation, observation.final_length)
    least = min(size for kind, size, _ in kinds if not (for_work and kind == "sum"))
    rooms = zip(observation.devices, rooms_for(observation), strict=True)
    return _only(observation, placement, {view.name for view, room in rooms if room >= least})


def in_order(observation: Observation) -> Observation:
    """The observation with its devices in the order of their names, d2 before d10."""
    views = tuple(sorted(observation.devices, key=lambda view: natural(view.name)))
    return observation if views == observation.devices else replace(observation, devices=views)


def reachable(observation: Observation, placement: Placement | None) -> Observation:
    """The observation without devices that are behind an outage, on the way from the source or on the way back."""
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
    """The first observation with the devices that the second one has."""
    return _only(observation, None, {view.name for view in other.devices})


def _only(observation: Observation, placement: Placement | None, names: Collection[str]) -> Observation:
    held = set(placement.devices.values()) if placement is not None else set()
    names = {*names, *held, observation.source}
    kept = tuple(view for view in observation.devices if view.name in names)
    return observation if len(kept) == len(observation.devices) else replace(observation, devices=kept)
