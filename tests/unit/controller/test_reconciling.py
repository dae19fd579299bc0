"""After a loss, what the living hold decides: not what they were told."""

from __future__ import annotations

from dataclasses import replace

from testbed.controller.migration import Move
from testbed.controller.reconciling import drops, filled_in, left_behind, loads, overfull, present, without
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE, Block, Partition, Placement, copied_bytes, resident_bytes
from testbed.placement.cost.memory import device_needs
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


def with_room(observation: Observation, **blocks: float) -> Observation:
    """The observation in which devices have room for so many heads at the interval's end, besides what they keep."""
    length, shape = observation.final_length, observation.shape
    one = resident_bytes(shape, ONE, length, WHOLE)
    kept = device_needs(observation, None, length)
    rooms = {name: kept[name] + int(count * one) for name, count in blocks.items()}
    views = tuple(replace(view, available_bytes=rooms[view.name]) for view in observation.devices)
    return replace(observation, devices=views)


def test_what_must_be_held_until_the_commit_counts_beside_what_is_to_come() -> None:
    observation = with_room(seen(), a=2, b=2, c=0)
    held = {"a": {ONE, TWO}, "b": set[Block]()}
    assert overfull(observation, held, Placement({ONE: "a", TWO: "b", THREE: "b"})) is None
    told = overfull(observation, held, Placement({ONE: "b", TWO: "b", THREE: "a"}))
    assert told is not None and told.startswith("device a would need ")
    assert overfull(observation, held, Placement({ONE: "b", TWO: "b", THREE: "b"})) is not None


def test_the_living_keep_what_they_have_and_take_the_rest_where_it_fits() -> None:
    now, held = Placement({ONE: "a", TWO: "c", THREE: "c"}), {"a": {ONE}, "b": set[Block]()}
    assert filled_in(with_room(seen(), a=2, b=1, c=0), now, held) == Placement({ONE: "a", TWO: "a", THREE: "b"})
    assert filled_in(with_room(seen(), a=2.9, b=0.9, c=9), now, held) is None
    # What b still holds, though it is a's, takes room until the commit.
    assert filled_in(with_room(seen(), a=2, b=1, c=0), now, {"a": {ONE}, "b": {ONE}}) is None


def test_what_is_lost_goes_where_it_fits_to_the_runs_end_if_it_fits_so_anywhere() -> None:
    now, held = Placement({ONE: "a", TWO: "c", THREE: "c"}), {"a": {ONE}, "b": set[Block]()}
    long = replace(seen(), tokens_max=120)
    assert filled_in(with_room(long, a=2, b=9, c=0), now, held) == Placement({ONE: "a", TWO: "b", THREE: "b"})
    assert filled_in(with_room(long, a=2, b=1, c=0), now, held) == Placement({ONE: "a", TWO: "a", THREE: "b"})
