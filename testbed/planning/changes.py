"""What a plan's token would take with one device more or less, or with quicker links."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from testbed.placement.blocks import pinned_bytes
from testbed.placement.observation import DeviceView, LinkView, Observation
from testbed.planning.ways import ONE, Placed, Way, light_effort, place_all, placed, quickest

FEW = 4  # devices for which more than the quickest way is tried again after each change
NEAR = 1.5  # times the quickest token: a way that takes longer is not tried again
MOST_KINDS = 3  # of devices of which one more is tried
NEW = "new"


@dataclass(frozen=True)
class Change:
    """A change of the fleet, and the quickest token after it."""

    told: str
    devices: tuple[str, ...]  # that it removes, each by itself with the same result, or is like the one it adds
    token_s: float | None  # None: the model does not fit any more


@dataclass(frozen=True)
class _Fleet:
    """The quickest placement, and the ways that are tried again."""

    best: Placed
    ways: tuple[Way, ...]
    length: int
    star: bool


def changes(best: Placed, found: Iterable[Placed], length: int, star: bool) -> list[Change]:
    """One more device of each kind, without each device, and all links twice as fast.

    In shapes other than a star none is added, because the shape does not say how it would be linked; a device that is
    removed there still passes messages on. `found` has the fleet's placements in all ways, of which the quick ones are
    tried again.
    """
    seen = best.observation
    near = [one.way for one in found if one.token_s <= NEAR * best.token_s] if len(seen.devices) <= FEW else []
    fleet = _Fleet(best, tuple(dict.fromkeys((best.way, *near, ONE))), length, star)
    told = [*_more(fleet)] if star else []
    for names in _alike(seen):
        told.append(Change(f"without {_either(names)}", names, _without(fleet, names[0])))
    quick = {
        name: replace(link, up_bps=2 * link.up_bps, down_bps=2 * link.down_bps) for name, link in seen.links.items()
    }
    if len(seen.devices) > 1:
        told.append(Change("all links twice as fast", (), _again(fleet, replace(seen, links=quick))))
    return told


def _more(fleet: _Fleet) -> Iterable[Change]:
    seen = fleet.best.observation
    kinds: dict[object, DeviceView] = {}
    for view in reversed(seen.devices):  # the last device of a kind stands for it; the first is often the source
        kinds.setdefault(_kind(seen, view), view)
    for view in sorted(kinds.values(), key=lambda view: -view.streaming_Bps)[:MOST_KINDS]:
        devices = (*seen.devices, replace(view, name=NEW))
        links = {**seen.links, NEW: seen.links[view.name]}
        token_s = _again(fleet, replace(seen, devices=devices, links=links))
        yield Change(f"one more like {view.name}", (view.name,), token_s)


def _without(fleet: _Fleet, name: str) -> float | None:
    seen = fleet.best.observation
    rest = tuple(view for view in seen.devices if view.name != name)
    if not rest:
        return None
    if name != seen.source and name not in fleet.best.placement.devices.values():
        return fleet.best.token_s
    links = {link: view for link, view in seen.links.items() if not fleet.star or link != name}
    if name != seen.source:
        return _again(fleet, replace(seen, devices=rest, links=links))
    kept = pinned_bytes(seen.shape, seen.partition)
    able = [view for view in rest if view.available_bytes >= kept]
    if not able:
        return None
    source = max(able, key=lambda view: view.streaming_Bps).name
    return _again(fleet, replace(seen, devices=rest, links=links, source=source))


def _again(fleet: _Fleet, changed: Observation) -> float | None:
    """The quickest token on a changed fleet: with the placement as it was, if it still can be, or another one."""
    best = fleet.best
    effort = light_effort(len(changed.devices))
    found = place_all(changed, fleet.length, fleet.ways, effort)
    if {*best.placement.devices.values(), best.observation.source} <= {view.name for view in changed.devices}:
        seen = replace(changed, partition=best.observation.partition)
        found.append(placed(best.way, seen, best.placement, fleet.length))
    found = found or place_all(changed, fleet.length, effort=effort)
    return quickest(found).token_s if found else None


def _kind(observation: Observation, view: DeviceView) -> object:
    link: LinkView | None = observation.links.get(view.name)
    return replace(view, name=""), link


def _alike(observation: Observation) -> list[tuple[str, ...]]:
    """The devices by kind; the source is alone, because more than its blocks goes with it."""
    found: dict[object, list[str]] = {}
    for view in observation.devices:
        alone = view.name == observation.source or observation.routes is not None
        found.setdefault(view.name if alone else _kind(observation, view), []).append(view.name)
    return [tuple(names) for names in found.values()]


def _either(names: Sequence[str]) -> str:
    """`b`, `b or c`, `one of b to y (24)`."""
    if len(names) <= FEW:
        return " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
    return f"one of {names[0]} to {names[-1]} ({len(names)} alike)"
