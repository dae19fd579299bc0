"""The network as numbers of directed links, and the paths over them, for what is looked up with every move."""

from __future__ import annotations

from testbed.placement.cost.model import bulk_ratio
from testbed.placement.observation import Observation
from testbed.wire import OUTAGE_BPS


class NumberedPaths:
    """Paths between device numbers, as numbers of directed links; each path is looked up once."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation
        self._names = [view.name for view in observation.devices]
        hops = [(name, direction) for name in observation.links for direction in ("up", "down")]
        self._numbers = {hop: number for number, hop in enumerate(hops)}
        rates = [rate for link in observation.links.values() for rate in (link.up_bps, link.down_bps)]
        ratio = bulk_ratio(observation)
        self.seconds_per_byte = [ratio * 8 / max(rate, OUTAGE_BPS) for rate in rates]  # of payload
        self._found: dict[tuple[int, int], tuple[tuple[int, ...], float]] = {}

    def links(self, pair: tuple[int, int]) -> tuple[int, ...]:
        """The directed links on the path from one device to another."""
        return self._look_up(pair)[0]

    def delay_s(self, pair: tuple[int, int]) -> float:
        """The sum of their delays."""
        return self._look_up(pair)[1]

    def _look_up(self, pair: tuple[int, int]) -> tuple[tuple[int, ...], float]:
        found = self._found.get(pair)
        if found is None:
            path = self._observation.path(self._names[pair[0]], self._names[pair[1]])
            links = tuple(self._numbers[leg.hop] for leg in path)
            found = self._found[pair] = (links, sum(leg.delay_s for leg in path))
        return found
