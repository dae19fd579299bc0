"""The plan: what every worker executes under one epoch.

A placement says where blocks are; the plan adds what a worker cannot decide alone: the order in which the
device that holds x sends it. x is at the source before layer 0, at ffn(l)'s device before layer l+1, and goes
back to the source (its last row) after the last layer. Plans are plain dataclasses of str, int, tuple and dict,
so msgpack carries them. This module knows nothing of sockets or epochs' commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from testbed.placement.blocks import Block, Placement, wire_bytes
from testbed.placement.latency import block_time, transfer_seconds
from testbed.placement.observation import Observation
from testbed.shape import ModelShape


@dataclass(frozen=True)
class LayerPlan:
    """One layer: who computes what, and to whom the device that holds x sends it."""

    heads: dict[str, tuple[int, ...]] = field(hash=False)  # device -> its KV groups, sorted; only devices with some
    proj: str
    ffn: str
    x_order: tuple[str, ...]  # devices that get x over the network, in send order; never the holder itself


@dataclass(frozen=True)
class Plan:
    """A whole placement in the form workers execute; `layers[l]` is layer l."""

    epoch: int
    source: str
    layers: tuple[LayerPlan, ...]

    def holder(self, layer: int) -> str:
        """The device that holds x when `layer` begins; for `layer == len(layers)`, when the last one has ended."""
        return self.source if layer == 0 else self.layers[layer - 1].ffn

    def devices(self) -> set[str]:
        """Every device with a part in this plan, the source included."""
        found = {self.source}
        for layer in self.layers:
            found |= {*layer.heads, layer.proj, layer.ffn}
        return found


def send_order(holder: str, proj: str, tails: Iterable[tuple[str, float]]) -> tuple[str, ...]:
    """Devices to which `holder` sends x, longest remaining tail first, a pure residual last.

    `tails` has (device, seconds of its heads' compute and of its result's way to proj's device) for each device
    with heads, in index order, so that equal tails keep index order.
    """
    tails = tuple(tails)
    order = [device for device, _ in sorted(tails, key=lambda tail: -tail[1]) if device != holder]
    if proj != holder and all(device != proj for device, _ in tails):
        order.append(proj)
    return tuple(order)


def tail_seconds(observation: Observation, device: str, heads: int, proj: str) -> float:
    """Seconds from x at `device` until the result of its `heads` heads can be used at `proj`; one decoded token."""
    shape = observation.shape
    compute = heads * block_time(shape, Block("head", 0), observation.device(device), observation.length)
    if device == proj:
        return compute
    path = observation.path(device, proj)
    return compute + transfer_seconds(path, result_payload(shape, heads), observation.hop_overhead_s)


def make_plan(observation: Observation, placement: Placement) -> Plan:
    """The plan for a complete placement; a device's index is its position in `observation.devices`."""
    shape, where = observation.shape, placement.devices
    layers: list[LayerPlan] = []
    holder = observation.source
    for layer in range(shape.layers):
        groups: dict[str, list[int]] = {}
        for group in range(shape.kv_heads):
            groups.setdefault(where[Block("head", layer, group)], []).append(group)
        heads = {view.name: tuple(groups[view.name]) for view in observation.devices if view.name in groups}
        proj, ffn = where[Block("proj", layer)], where[Block("ffn", layer)]
        tails = [(device, tail_seconds(observation, device, len(held), proj)) for device, held in heads.items()]
        layers.append(LayerPlan(heads, proj, ffn, send_order(holder, proj, tails)))
        holder = ffn
    return Plan(placement.epoch, observation.source, tuple(layers))


# --- what travels --------------------------------------------------------------------------------------------


def x_payload(shape: ModelShape, rows: int = 1) -> float:
    """Payload bytes of an x or y message of `rows` tokens: rows·D·b_act."""
    return rows * shape.width * shape.activation_bytes


def result_payload(shape: ModelShape, heads: int, rows: int = 1) -> float:
    """Payload bytes of the one message with the outputs of `heads` KV groups: rows·heads·r·d·b_act."""
    return rows * heads * shape.queries_per_group * shape.head_dim * shape.activation_bytes


def plan_messages(shape: ModelShape, plan: Plan, rows: int = 1) -> Iterator[tuple[str, str, float]]:
    """(from, to, payload bytes) of each network message of one step with `rows` tokens, in the order of layers.

    The last x goes back to the source with its last row only; blocks on one device hand over for free.
    """
    x = x_payload(shape, rows)
    for index, layer in enumerate(plan.layers):
        holder = plan.holder(index)
        for device in layer.x_order:
            yield holder, device, x
        for device, groups in layer.heads.items():
            if device != layer.proj:
                yield device, layer.proj, result_payload(shape, len(groups), rows)
        if layer.proj != layer.ffn:
            yield layer.proj, layer.ffn, x
    if plan.holder(len(plan.layers)) != plan.source:
        yield plan.holder(len(plan.layers)), plan.source, x_payload(shape, 1)


def plan_wire_bytes(shape: ModelShape, plan: Plan, rows: int = 1) -> float:
    """Bytes on the links (headers included) for one step with `rows` tokens."""
    return sum(wire_bytes(payload) for _, _, payload in plan_messages(shape, plan, rows))
