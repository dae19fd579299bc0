"""What fits: needs per device, double residency, the end of the interval, and proofs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import MIB, any_partition, observations, placed, quickstart

from testbed.errors import RunFailed
from testbed.placement.blocks import PAGE_BYTES, Block, Placement, blocks_of, copies_of, pinned_bytes, resident_bytes
from testbed.placement.cost.memory import (
    DOUBLE_RESIDENCY,
    END_OF_INTERVAL,
    Infeasible,
    any_placement,
    check_complete,
    device_needs,
    nothing_fits,
    refuse_shortages,
    shortages,
)
from testbed.placement.cost.packing import _pack_by_integers, first_fit, pack
from testbed.placement.highs import quiet_highs
from testbed.placement.observation import Observation
from testbed.shape import ModelShape


@settings(max_examples=150, deadline=None)
@given(placed(any_partition), st.integers(1, 100))
def test_devices_needs_add_up_to_every_block_and_what_is_pinned(
    case: tuple[Observation, Placement], length: int
) -> None:
    observation, placement = case
    shape = observation.shape
    partition = observation.partition
    needs = device_needs(observation, placement, length)
    blocks = blocks_of(shape, partition)
    copied = sum(resident_bytes(shape, block, length, partition) for block in copies_of(shape, partition))
    expected = pinned_bytes(shape, partition) + sum(resident_bytes(shape, b, length, partition) for b in blocks)
    assert sum(needs.values()) == expected + copied * len(observation.devices)
    for view in observation.devices:
        own = sum(resident_bytes(shape, block, length, partition) for block in placement.on(view.name))
        pinned = pinned_bytes(shape, partition) if view.name == observation.source else 0
        assert needs[view.name] == own + pinned + copied


def _tight_pair(tokens_done: int = 8) -> tuple[Observation, Placement]:
    """All on b but one layer, and b's budget exactly what it holds at the interval's end."""
    observation = quickstart(tokens_done=tokens_done)
    devices = {block: "c" if block.layer == 0 else "b" for block in blocks_of(observation.shape)}
    placement = Placement(devices)
    need = device_needs(observation, placement, observation.final_length)["b"]
    views = tuple(replace(v, available_bytes=need) if v.name == "b" else v for v in observation.devices)
    return replace(observation, devices=views), placement


def test_a_device_that_swaps_blocks_must_hold_both_until_commit() -> None:
    observation, old = _tight_pair()
    assert shortages(observation, old, old) == []
    swapped = old.with_moves([(Block("ffn", 0), "b"), (Block("ffn", 1), "c")])
    assert [(s.device, s.reason) for s in shortages(observation, old, swapped)] == [("b", DOUBLE_RESIDENCY)]
    with pytest.raises(Infeasible, match=r"greedy .* after 8 tokens: device b needs .* and has .*double residency"):
        refuse_shortages(observation, old, swapped, "greedy")


def test_what_needs_a_budget_to_the_last_byte_fits_and_a_byte_less_is_a_shortage() -> None:
    observation, old = _tight_pair()
    new = old.with_moves([(Block("ffn", 0), "b"), (Block("ffn", 1), "c")])

    def found(budget_bytes: int) -> list[str]:
        views = tuple(
            replace(view, available_bytes=budget_bytes if view.name == "b" else 2**30) for view in observation.devices
        )
        return [shortage.reason for shortage in shortages(replace(observation, devices=views), old, new)]

    both = device_needs(observation, old, observation.length)["b"]
    both += resident_bytes(observation.shape, Block("ffn", 0), observation.length)
    final = device_needs(observation, new, observation.final_length)["b"]
    assert final < both
    assert found(both) == [] and found(both - 1) == [DOUBLE_RESIDENCY]
    assert found(final) == [DOUBLE_RESIDENCY] and found(final - 1) == [DOUBLE_RESIDENCY, END_OF_INTERVAL]


def test_a_squeezed_device_that_only_loses_blocks_does_not_violate_double_residency() -> None:
    observation, old = _tight_pair()
    views = tuple(
        replace(v, available_bytes=v.available_bytes - 20 * MIB if v.name == "b" else 2**30)
        for v in observation.devices
    )
    squeezed = replace(observation, devices=views)
    assert [(s.device, s.reason) for s in shortages(squeezed, old, old)] == [("b", END_OF_INTERVAL)]
    moved = old.with_moves([(Block("ffn", 1), "c"), (Block("ffn", 2), "d")])
    assert shortages(squeezed, old, moved) == []
    back = moved.with_moves([(Block("head", 0, 0), "b")])
    assert DOUBLE_RESIDENCY in {s.reason for s in shortages(squeezed, old, back)}


def test_caches_must_fit_at_the_intervals_last_token() -> None:
    observation, placement = _tight_pair()
    assert shortages(observation, None, placement) == []
    longer = replace(observation, interval=64)
    assert [(s.device, s.reason) for s in shortages(longer, None, placement)] == [("b", END_OF_INTERVAL)]


def test_an_incomplete_placement_is_refused_by_name() -> None:
    observation, placement = _tight_pair()
    check_complete(observation, placement)
    partial = Placement({block: where for block, where in placement.devices.items() if block != Block("proj", 3)})
    with pytest.raises(RunFailed, match=r"leaves out proj\(3\)"):
        check_complete(observation, partial)
    with pytest.raises(RunFailed, match="on 'x', which is not among"):
        check_complete(observation, placement.with_moves([(Block("proj", 3), "x")]))


def test_the_proof_names_what_is_too_small() -> None:
    def budgets(*mib: int) -> Observation:
        observation = quickstart()
        views = tuple(
            replace(view, available_bytes=size * MIB) for view, size in zip(observation.devices, mib, strict=True)
        )
        return replace(observation, devices=views)

    assert nothing_fits(quickstart()) is None
    assert "embedding and LM head need 150.2 MiB on the source a" in str(nothing_fits(budgets(100, 900, 900, 900)))
    assert "one ffn block needs 18.02 MiB" in str(nothing_fits(budgets(160, 17, 17, 17)))
    assert "all devices together have 300 MiB" in str(nothing_fits(budgets(180, 40, 40, 40)))
    few_large = ModelShape("few-large", 2, 256, 1, 1, 4, 1024, 64, 128)  # two FFNs of 2 MiB are nearly all of it
    fragmented = replace(budgets(1, 1, 1, 3), shape=few_large)
    assert "cannot be divided into whole blocks" in str(nothing_fits(fragmented))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), min_size=3, max_size=5),
)
def test_packing_finds_a_packing_exactly_when_one_exists(rooms: list[int], kinds: list[tuple[int, int]]) -> None:
    kinds = sorted(kinds, reverse=True)
    packed = pack(rooms, kinds)
    if packed is not None:
        for room, counts in zip(rooms, packed, strict=True):
            assert sum(n * size for n, (size, _) in zip(counts, kinds, strict=True)) <= room
        assert [sum(counts[kind] for counts in packed) for kind in range(len(kinds))] == [count for _, count in kinds]
    else:
        assert first_fit(rooms, kinds) is None
        assert not _exists(tuple(rooms), tuple(kinds))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=4, max_size=5),
)
def test_the_integer_programme_packs_whole_pages_exactly_when_that_can_be(
    rooms: list[int], kinds: list[tuple[int, int]]
) -> None:
    kinds = sorted(((size * PAGE_BYTES, count) for size, count in kinds), reverse=True)
    rooms = [room * PAGE_BYTES + 5 for room in rooms]
    packed = _pack_by_integers(rooms, kinds)
    assert (packed is not None) == _exists(tuple(rooms), tuple(kinds))
    for room, counts in zip(rooms, packed or [[0] * len(kinds)] * len(rooms), strict=True):
        assert sum(n * size for n, (size, _) in zip(counts, kinds, strict=True)) <= room


def test_the_solver_greets_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    quiet_highs().run()
    assert capfd.readouterr().out == ""


def _exists(rooms: tuple[int, ...], kinds: tuple[tuple[int, int], ...]) -> bool:
    """By trying every division of the counts."""
    if not rooms:
        return all(count == 0 for _, count in kinds)
    for taken in itertools.product(*(range(count + 1) for _, count in kinds)):
        if sum(n * size for n, (size, _) in zip(taken, kinds, strict=True)) <= rooms[0]:
            left = tuple((size, count - n) for n, (size, count) in zip(taken, kinds, strict=True))
            if _exists(rooms[1:], left):
                return True
    return False


@settings(max_examples=150, deadline=None)
@given(observations(tightness=st.floats(0.3, 2.5), cuts=any_partition))
def test_either_some_placement_fits_or_the_proof_says_why_not(observation: Observation) -> None:
    found = any_placement(observation)
    if found is None:
        assert nothing_fits(observation)
    else:
        assert nothing_fits(observation) is None
        check_complete(observation, found)
        assert shortages(observation, None, found) == []
