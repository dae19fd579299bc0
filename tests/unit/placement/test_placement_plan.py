"""Plans: complete, in the right send order, countable in bytes, and fit for msgpack."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from placement_cases import any_partition, placed, quickstart

from testbed.placement.blocks import Block, Placement, blocks_of, wire_bytes
from testbed.placement.observation import Observation
from testbed.placement.plan import (
    HalfPlan,
    Plan,
    halves_of,
    make_plan,
    plan_messages,
    plan_wire_bytes,
    tail_seconds,
    work_payload,
)
from testbed.placement.tree import tree_roots


def _halves(plan: Plan) -> list[tuple[int, str, HalfPlan]]:
    """(0 for attention and 1 for FFN, the device that holds x, the half) of every half of every layer."""
    found, holder = [], plan.source
    for layer in plan.layers:
        for number, half in enumerate((layer.attention, layer.ffn)):
            found.append((number, holder, half))
            holder = half.target
    return found


@settings(max_examples=150, deadline=None)
@given(placed(any_partition))
def test_a_plan_survives_msgpack(case: tuple[Observation, Placement]) -> None:
    plan = make_plan(*case)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan) == plan


@settings(max_examples=200, deadline=None)
@given(placed())
def test_a_plan_says_of_every_block_what_the_placement_says(case: tuple[Observation, Placement]) -> None:
    observation, placement = case
    plan = make_plan(observation, placement)
    found: dict[Block, str] = {}
    for turn, (number, _, half) in enumerate(_halves(plan)):
        kind, layer = halves_of(observation.partition)[number], turn // 2
        for device, parts in half.work.items():
            assert kind.work and parts and list(parts) == sorted(parts)
            found.update({Block(kind.work, layer, part): device for part in parts})
        found[Block(kind.target, layer, number if kind.target == "sum" else 0)] = half.target
    for device, shards in (plan.vocab.work if plan.vocab is not None else {}).items():
        found.update({Block("vocab", 0, shard): device for shard in shards})
    assert found == placement.devices
    assert plan.epoch == placement.epoch
    assert plan.devices() == {observation.source, *placement.devices.values()}


@settings(max_examples=200, deadline=None)
@given(placed())
def test_x_goes_once_to_who_needs_it_longest_tail_first_and_a_pure_residual_last(
    case: tuple[Observation, Placement],
) -> None:
    observation, placement = case
    plan = make_plan(observation, placement)
    index = {view.name: number for number, view in enumerate(observation.devices)}
    for number, holder, half in _halves(plan):
        assert set(half.x_order) == {*half.work, half.target} - {holder}
        assert len(set(half.x_order)) == len(half.x_order)
        with_work = [device for device in half.x_order if device in half.work]
        if len(with_work) < len(half.x_order):
            assert half.x_order[-1] == half.target
            assert half.x_order[:-1] == tuple(with_work)
        kind = halves_of(observation.partition)[number]
        tails = [
            (-tail_seconds(observation, kind, device, half.work[device], half.target), index[device])
            for device in with_work
        ]
        assert tails == sorted(tails)


@settings(max_examples=150, deadline=None)
@given(placed())
def test_wire_bytes_are_those_of_the_messages_between_different_devices(case: tuple[Observation, Placement]) -> None:
    observation, placement = case
    plan, shape, rows = make_plan(observation, placement), observation.shape, 3
    x, o = (
        rows * shape.width * shape.activation_bytes,
        rows * shape.queries_per_group * shape.head_dim * shape.activation_bytes,
    )
    expected, partition = 0.0, observation.partition
    for number, holder, half in _halves(plan):
        expected += len({*half.work, half.target} - {holder}) * wire_bytes(x)
        for device in {*half.work} - {half.target}:
            parts = half.work[device]
            payload = len(parts) * o
            if number == 1 or partition.proj_rows:
                payload = len(tree_roots(parts)) * x
            assert payload == work_payload(shape, halves_of(partition)[number], parts, rows)
            expected += wire_bytes(payload)
    holder = plan.layers[-1].ffn.target
    expected += wire_bytes(shape.width * shape.activation_bytes) if holder != observation.source else 0
    if plan.vocab is not None:
        shards = plan.vocab.work.items()
        expected += sum(
            wire_bytes(shape.width * shape.activation_bytes) for device, _ in shards if device != plan.source
        )
        expected += sum(wire_bytes(24 * len(held)) for device, held in shards if device != plan.source)
    assert plan_wire_bytes(shape, plan, rows, partition) == expected
    assert all(source != target for source, target, _ in plan_messages(shape, plan, rows, partition))


def test_equal_tails_keep_the_devices_order() -> None:
    observation = quickstart()
    view, link = observation.devices[0], observation.links["a"]
    same = Observation(
        observation.shape,
        observation.partition,
        "z",
        tuple(type(view)(name, view.available_bytes, 2e9, 1e10, 9e7) for name in "zyxw"),
        dict.fromkeys("zyxw", link),
        prompt_tokens=4,
        tokens_done=0,
        tokens_max=8,
        interval=8,
    )
    devices = {b: "yxwz"[b.index % 4] if b.kind == "head" else "z" for b in blocks_of(observation.shape)}
    assert make_plan(same, Placement(devices)).layers[0].attention.x_order == ("y", "x", "w")


def test_layer_wise_placements_send_one_message_per_cut() -> None:
    observation = quickstart()
    devices = {block: "a" if block.layer < 6 else "b" for block in blocks_of(observation.shape)}
    messages = list(plan_messages(observation.shape, make_plan(observation, Placement(devices))))
    assert [(source, target) for source, target, _ in messages] == [("a", "b"), ("b", "a")]
