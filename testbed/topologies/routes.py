"""Static shortest paths: the links that a message takes from one device to another.

A route has the least delay in the topology file; of several such, the one with the fewest links; of those, the one
whose links come first in the file. Traces change no route. Each node forwards by the destination alone, and all nodes
follow the same shortest-path tree, so packets really take these routes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from testbed.topologies.links import UP, Cable, Hop

Routes = Mapping[tuple[str, str], tuple[Hop, ...]]


def next_cables(cables: Sequence[Cable], target: str) -> dict[str, Cable]:
    """The link on which each node sends messages for `target` (Dijkstra's algorithm); unreachable nodes are absent."""
    at: dict[str, list[tuple[int, Cable]]] = {}
    for number, cable in enumerate(cables):
        for end in cable.ends:
            at.setdefault(end, []).append((number, cable))
    following: dict[str, Cable] = {}
    settled: set[str] = set()
    waiting: list[tuple[float, int, int, str]] = [(0.0, 0, -1, target)]  # (delay, links, link taken, node)
    while waiting:
        delay, links, taken, node = heapq.heappop(waiting)
        if node in settled:
            continue
        settled.add(node)
        if taken >= 0:
            following[node] = cables[taken]
        for number, cable in at.get(node, ()):
            before = cable.beyond(node)
            if before not in settled:
                up = cable.hop_from(before)[1] == UP
                here = cable.link.up_delay_s if up else cable.link.down_delay_s
                heapq.heappush(waiting, (delay + here, links + 1, number, before))
    return following


def through_medium(devices: Sequence[str], medium: str) -> Routes:
    """The routes of stations on one medium: to the access point and from there on, twice through the same queue."""
    twice = ((medium, UP), (medium, UP))
    return {(source, target): twice for source in devices for target in devices if source != target}


def routes_between(devices: Sequence[str], cables: Sequence[Cable]) -> Routes:
    """The directed links from each device to each other device that it can reach."""
    routes: dict[tuple[str, str], tuple[Hop, ...]] = {}
    for target in devices:
        following = next_cables(cables, target)
        for source in devices:
            if source == target or source not in following:
                continue
            hops, node = [], source
            while node != target:
                cable = following[node]
                hops.append(cable.hop_from(node))
                node = cable.beyond(node)
            routes[source, target] = tuple(hops)
    return routes
