"""After a loss, what the living hold decides: not what they were told."""

from __future__ import annotations

from testbed.controller.migration import Move
from testbed.controller.reconciling import drops, left_behind, loads, present, without
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE, Block, Partition, Placement, copied_bytes
from testbed.placement.observation import DeviceView, LinkView, Observation

ONE, TWO, THREE = (Block("head", 0, index) for index in range(3))


def seen(partition: Partition = WHOLE) -> Observation:
    views = tuple(DeviceView(name, 2**30, 1e9, 1e10, 1e8) for name in "abc")
    links = dict.fromkeys("abc", LinkView(1e8, 1e8, 1e-3, 1e-3))
    return Observation(PRESETS["tiny"], partition, "a", views, links, 7, 3, 20, 8)


def test_a_block_is_with_its_owner_else_with_who_holds_it_else_nowhere() -> None:
    placed = Placement({ONE: "a", TWO: "b", THREE: "c"})
    held = {"a": {ONE, TWO}, "b": {THREE}}
    assert present(placed, held).devices == {ONE: "a", TWO: "a", THREE: "b"}
    assert present(placed, {"a": {ONE}, "b": {ONE, TWO}}).devices == {ONE: "a", TWO: "b", THREE: "c"}


def test_only_what_is_not_there_is_loaded_and_what_is_there_twice_is_dropped() -> None:
    wanted = Placement({ONE: "a", TWO: "a", THREE: "b"})
    held = {"a": {ONE}, "b": {TWO, ONE}}
    assert loads(present(wanted, held), wanted, held) == [Move(TWO, "b", "a", 0), Move(THREE, "b", "b", 0)]
    assert drops(wanted, held) == {"a": (), "b": (ONE, TWO)}


def test_a_lost_device_has_no_room_but_for_the_copies_that_every_device_keeps() -> None:
    partition = Partition(2, proj_rows=True, exchange="all-to-all")
    for one in (WHOLE, partition):
        shown = without(seen(one), {"b"})
        assert shown.device("b").available_bytes == copied_bytes(PRESETS["tiny"], one)
        assert shown.device("a") == seen(one).device("a") and shown.devices[1].name == "b"


def test_nothing_is_left_behind_where_no_block_of_a_size_is_on_a_lost_device() -> None:
    assert left_behind(Placement({ONE: "a", TWO: "b"}), {"b"}, seen()) == [TWO]
    assert left_behind(Placement({ONE: "a", TWO: "c"}), {"b"}, seen()) == []
