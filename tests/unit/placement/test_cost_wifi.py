"""One medium for all stations in the cost model: who waits for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from placement_cases import quickstart

from testbed.errors import ConfigError
from testbed.placement.all_to_all import Message, arrivals
from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost.model import migration_loads
from testbed.placement.latency import message_bits, transfer_seconds
from testbed.placement.observation import LinkView, Observation, path_rate_bps
from testbed.placement.policies import make_policy
from testbed.topologies.routes import through_medium

RATE, DELAY = 10e6, 0.002


def on_wifi(observation: Observation, rate: float = RATE, delay: float = DELAY) -> Observation:
    """The same devices as stations of one medium."""
    names = [view.name for view in observation.devices]
    link = LinkView(rate, rate, delay, delay)
    return replace(observation, links={"medium": link}, routes=through_medium(names, "medium"))


@pytest.mark.parametrize("payload", [0.0, 3000.0, 100_000.0])
def test_a_message_takes_the_medium_twice(payload: float) -> None:
    seen = on_wifi(quickstart())
    path, occupied = seen.path("a", "b"), message_bits(payload) / RATE
    alone = arrivals([Message(0.0, path, payload)])[0]
    assert alone == pytest.approx(max(occupied, DELAY) + occupied + DELAY)
    assert transfer_seconds(path, payload) == pytest.approx(alone)
    assert path_rate_bps(path) == RATE / 2


def test_two_pairs_of_stations_share_the_medium() -> None:
    seen, payload = on_wifi(quickstart(), delay=0.0), 50_000.0
    pairs = [("a", "b"), ("c", "d")]
    both = arrivals([Message(0.0, seen.path(*pair), payload) for pair in pairs])
    alone = arrivals([Message(0.0, seen.path(*pairs[0]), payload)])[0]
    assert max(both) == pytest.approx(2 * alone)


def test_the_other_direction_has_no_rate_of_its_own() -> None:
    seen, payload = on_wifi(quickstart(), delay=0.0), 50_000.0
    to_and_fro = arrivals([Message(0.0, seen.path(*pair), payload) for pair in (("a", "b"), ("b", "a"))])
    assert max(to_and_fro) == pytest.approx(4 * message_bits(payload) / RATE)


def test_a_migration_carries_its_bytes_twice() -> None:
    seen = on_wifi(quickstart())
    block = blocks_of(seen.shape)[0]
    loads, delay = migration_loads(seen, [(block, "a", "b")], 100)
    star, _ = migration_loads(quickstart(), [(block, "a", "b")], 100)
    (medium,) = [load for load in loads if load.where == ("medium", "up")]
    up = next(load for load in star if load.where == ("a", "up"))
    assert medium.seconds == pytest.approx(2 * up.seconds * quickstart().links["a"].up_bps / RATE)
    assert delay == pytest.approx(2 * DELAY)


def test_a_search_that_thinks_in_stars_refuses_it() -> None:
    policy = make_policy("exact", {})
    policy.reset(1)
    with pytest.raises(ConfigError, match="star topologies only.*or a shared medium"):
        policy.decide(on_wifi(quickstart()), None)


def test_other_policies_place_blocks_on_a_wifi() -> None:
    seen = on_wifi(quickstart())
    for name in ("headroom", "round-robin"):
        policy = make_policy(name, {})
        policy.reset(1)
        placed = policy.decide(seen, None)
        assert isinstance(placed, Placement) and set(placed.devices) == set(blocks_of(seen.shape, seen.partition))
