"""After a loss: which heads count as being at their replicas, which rows are missing anywhere, and which travel."""

from __future__ import annotations

from dataclasses import replace

from test_reconciling import seen

from testbed.controller.migration import Move
from testbed.controller.reconciling import adopted, lasting, loads, whole_rows, with_rows
from testbed.placement.blocks import Block, Placement, replica_bytes, resident_bytes
from testbed.placement.cost.memory import device_needs

HEAD, OTHER, FFN = Block("head", 0, 0), Block("head", 0, 1), Block("ffn", 0)
BEFORE = Placement({HEAD: "b", OTHER: "a", FFN: "b"})
HELD = {"a": {OTHER}, "c": set[Block](), "d": set[Block]()}


def test_a_lost_head_is_where_most_of_its_rows_are_and_other_blocks_stay_lost() -> None:
    now = adopted(BEFORE, HELD, {"a": {HEAD: 3}, "c": {HEAD: 9, OTHER: 9}, "d": {}})
    assert now.devices == {HEAD: "c", OTHER: "a", FFN: "b"}


def test_a_replica_without_rows_is_none() -> None:
    assert adopted(BEFORE, HELD, {"c": {HEAD: 0}}) == BEFORE


def test_rows_are_whole_up_to_the_shortest_replica_that_is_used() -> None:
    replicas = {"a": {HEAD: 5}, "c": {HEAD: 9}}
    for home, rows in ("c", 9), ("a", 5), ("d", 0):
        assert whole_rows(Placement({HEAD: home, OTHER: "a", FFN: "d"}), HELD, replicas, 12) == rows
    assert whole_rows(Placement({HEAD: "c", OTHER: "d", FFN: "d"}), HELD, replicas, 12) == 0, "a cache does not travel"
    held = {**HELD, "a": {HEAD, OTHER}}
    assert whole_rows(Placement({HEAD: "a", OTHER: "a", FFN: "d"}), held, {}, 12) == 12


def test_rows_travel_from_the_longest_replica_or_a_living_owner_unless_the_device_has_them_itself() -> None:
    replicas = {"a": {HEAD: 5}, "c": {HEAD: 9}, "d": {}}
    sources = adopted(BEFORE, HELD, replicas)
    assert whole_rows(sources, HELD, replicas, 12) == 9

    def to(head: str, other: str, rows: int) -> list[Move]:
        wanted = Placement({HEAD: head, OTHER: other, FFN: "d"})
        return with_rows(loads(BEFORE, wanted, HELD), sources, replicas, rows, 10)

    ffn = Move(FFN, "b", "d", 0)
    assert to("d", "a", 9) == [Move(HEAD, "c", "d", 90), ffn]
    assert to("d", "c", 9) == [Move(HEAD, "c", "d", 90), Move(OTHER, "a", "c", 90), ffn]
    assert to("c", "a", 9) == [Move(HEAD, "c", "c", 0), ffn]
    assert to("a", "a", 9) == [Move(HEAD, "c", "a", 90), ffn]
    assert to("a", "a", 5) == [Move(HEAD, "a", "a", 0), ffn]
    assert to("d", "a", 0) == [Move(HEAD, "b", "d", 0), ffn]


def test_a_device_without_room_for_blocks_and_replicas_keeps_those_of_the_blocks_that_come() -> None:
    third, length = Block("head", 0, 2), 9
    observation = seen()
    head = resident_bytes(observation.shape, HEAD, length, observation.partition)
    room = device_needs(observation, None, length)["c"] + 2 * head + replica_bytes(observation.shape, length)
    wanted = Placement({HEAD: "c", OTHER: "c", third: "b"})
    replicas, held = {"c": {HEAD: 4, third: 6}}, {"c": set[Block](), "b": set[Block]()}
    for available, left in (room, {HEAD: 4, third: 6}), (room - 1, {HEAD: 4}):
        views = tuple(
            replace(view, available_bytes=available) if view.name == "c" else view for view in observation.devices
        )
        assert lasting(replace(observation, devices=views), held, wanted, replicas, length) == {"c": left}
