"""Plans: complete, in the right send order, countable in bytes, and fit for msgpack."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from placement_cases import placed, quickstart

from testbed.placement.blocks import Block, Placement, blocks_of, wire_bytes
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan, plan_messages, plan_wire_bytes, tail_seconds


@settings(max_examples=150, deadline=None)
@given(placed())
def test_a_plan_survives_msgpack(case: tuple[Observation, Placement]) -> None:
    plan = make_plan(*case)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan) == plan


@settings(max_examples=200, deadline=None)
@given(placed())
def test_a_plan_says_of_every_block_what_the_placement_says(case: tuple[Observation, Placement]) -> None:
    observation, placement = case
    plan = make_plan(observation, placement)
    found: dict[Block, str] = {}
    for number, layer in enumerate(plan.layers):
        for device, groups in layer.heads.items():
            assert groups and list(groups) == sorted(groups)
            found.update({Block("head", number, group): device for group in groups})
        found[Block("proj", number)] = layer.proj
        found[Block("ffn", number)] = layer.ffn
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
    for number, layer in enumerate(plan.layers):
        holder = plan.holder(number)
        assert set(layer.x_order) == {*layer.heads, layer.proj} - {holder}
        assert len(set(layer.x_order)) == len(layer.x_order)
        with_heads = [device for device in layer.x_order if device in layer.heads]
        if len(with_heads) < len(layer.x_order):
            assert layer.x_order[-1] == layer.proj
            assert layer.x_order[:-1] == tuple(with_heads)
        tails = [
            (-tail_seconds(observation, device, len(layer.heads[device]), layer.proj), index[device])
            for device in with_heads
        ]
        assert tails == sorted(tails)


@settings(max_examples=150, deadline=None)
@given(placed())
def test_wire_bytes_are_those_of_the_messages_between_different_devices(case: tuple[Observation, Placement]) -> None:
    observation, placement = case
    plan, shape, rows = make_plan(observation, placement), observation.shape, 3
    x, o = rows * shape.width * 4, rows * shape.queries_per_group * shape.head_dim * 4
    expected, holder = 0.0, observation.source
    for number in range(shape.layers):
        at = [placement.devices[Block("head", number, group)] for group in range(shape.kv_heads)]
        proj, ffn = placement.devices[Block("proj", number)], placement.devices[Block("ffn", number)]
        expected += len({*at, proj} - {holder}) * wire_bytes(x)
        expected += sum(wire_bytes(at.count(device) * o) for device in {*at} - {proj})
        expected += wire_bytes(x) if proj != ffn else 0
        holder = ffn
    expected += wire_bytes(shape.width * 4) if holder != observation.source else 0
    assert plan_wire_bytes(shape, plan, rows) == expected
    assert all(source != target for source, target, _ in plan_messages(shape, plan, rows))


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
    assert make_plan(same, Placement(devices)).layers[0].x_order == ("y", "x", "w")


def test_layer_wise_placements_send_one_message_per_cut() -> None:
    observation = quickstart()
    devices = {block: "a" if block.layer < 6 else "b" for block in blocks_of(observation.shape)}
    messages = list(plan_messages(observation.shape, make_plan(observation, Placement(devices))))
    assert [(source, target) for source, target, _ in messages] == [("a", "b"), ("b", "a")]
