"""After a loss: which heads count as being at their replicas, and which rows are missing anywhere."""

from __future__ import annotations

from testbed.controller.reconciling import adopted, whole_rows
from testbed.placement.blocks import Block, Placement

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
