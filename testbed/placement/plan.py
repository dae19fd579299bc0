"""The route plan: what every worker follows under one epoch.

A placement says where blocks are. The route plan adds what a worker cannot decide alone: the order in which the device
that holds x, the hidden state, sends it. Both halves of a layer have the same form. The device that holds x sends it to
the devices that work on it. Their results meet at one device, the target, which then holds what the next half begins
with. x is at the source before layer 0, and its last row goes back to the source after the last layer.

With an all-to-all exchange, results go to the source and to every device that still has work to do. Each of these adds
them up and so holds x; only the embedding's x is sent as such.

Route plans are plain dataclasses of str, int, tuple and dict, so msgpack can carry them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from testbed.placement.all_to_all import in_turn
from testbed.placement.blocks import (
    WHOLE,
    Block,
    Kind,
    Partition,
    Placement,
    blocks_of,
    layer_blocks,
    wire_bytes,
)
from testbed.placement.latency import block_time, transfer_seconds
from testbed.placement.observation import Observation
from testbed.placement.tree import tree_roots
from testbed.shape import ModelShape


@dataclass(frozen=True)
class HalfPlan:
    """Half a layer: who computes what, where the results meet, and to whom the device that holds x sends it."""

    work: dict[str, tuple[int, ...]] = field(hash=False)  # device -> its KV groups or shards, sorted; none without any
    target: str
    x_order: tuple[str, ...]  # devices that get x over the network, in send order; never the holder itself
    others: tuple[str, ...] = ()  # all-to-all: who else adds up the results; the target then is the source

    @property
    def targets(self) -> tuple[str, ...]:
        """The devices that add up the results, or the one device where they meet."""
        return (self.target, *self.others)

    def receivers(self, device: str) -> tuple[str, ...]:
        """The targets in the order in which a device with work sends them its results."""
        return in_turn(self.targets, list(self.work).index(device)) if self.others else (self.target,)


@dataclass(frozen=True)
class LayerPlan:
    """One layer. A whole FFN is a half without work, because its target does everything."""

    attention: HalfPlan
    ffn: HalfPlan


@dataclass(frozen=True)
class Plan:
    """The route plan of one epoch: a whole placement in the form that workers follow; `layers[l]` is layer l."""

    epoch: int
    source: str
    layers: tuple[LayerPlan, ...]
    vocab: HalfPlan | None = None  # the LM head where it is cut: from the source to its shards and back

    def holder(self, layer: int) -> str:
        """The device that holds x when `layer` begins; with `layer == len(layers)`, when the last layer has ended."""
        return self.source if layer == 0 else self.layers[layer - 1].ffn.target

    def devices(self) -> set[str]:
        """Every device with a part in this route plan, the source included."""
        found = {self.source}
        for layer in self.layers:
            for half in (layer.attention, layer.ffn):
                found |= {*half.work, half.target}
        return found | {*(self.vocab.work if self.vocab is not None else ())}


class HalfKind(NamedTuple):
    """What one half of every layer is made of."""

    work: Kind | None  # kind of the blocks that work side by side; None where the target does everything
    target: Kind | None  # kind of the block that adds or joins the results; None where they are only compared
    partial: bool  # whether the results are partial sums; a device sends the roots of its complete subtrees


VOCAB = HalfKind("vocab", None, False)  # what follows the last layer where the LM head is cut


def halves_of(partition: Partition) -> tuple[HalfKind, HalfKind]:
    """The attention half and the FFN half under a partition."""
    attention = HalfKind("head", "sum", True) if partition.proj_rows else HalfKind("head", "proj", False)
    ffn = HalfKind(None, "ffn", False) if partition.ffn_shards == 1 else HalfKind("ffn", "sum", True)
    return attention, ffn


def send_order(holder: str, target: str, tails: Iterable[tuple[str, float]]) -> tuple[str, ...]:
    """The devices to which `holder` sends x: longest tail first, and a target that needs only the residual last.

    `tails` has (device, seconds of its work and of sending its result to the target) for each device with work, in
    index order. Equal tails keep that order.
    """
    tails = tuple(tails)
    order = [device for device, _ in sorted(tails, key=lambda tail: -tail[1]) if device != holder]
    if target != holder and all(device != target for device, _ in tails):
        order.append(target)
    return tuple(order)


def tail_seconds(observation: Observation, half: HalfKind, device: str, work: tuple[int, ...], target: str) -> float:
    """Seconds from x's arrival at `device` until the target can use its blocks' result, for one decoded token."""
    shape, partition = observation.shape, observation.partition
    assert half.work is not None
    block = Block(half.work, 0)
    compute = len(work) * block_time(shape, block, observation.device(device), observation.length, 1, partition)
    if device == target:
        return compute
    path = observation.path(device, target)
    return compute + transfer_seconds(path, work_payload(shape, half, work), observation.hop_overhead_s)


def make_plan(observation: Observation, placement: Placement) -> Plan:
    """The route plan for a complete placement. A device's index is its place in `observation.devices`."""
    shape, partition, where = observation.shape, observation.partition, placement.devices
    layers = _layers_by_hub(observation, where) if partition.hub else _layers_all_to_all(observation, where)
    source, vocab = observation.source, None
    if partition.vocab_shards > 1:
        shards = blocks_of(shape, partition)[-partition.vocab_shards :]
        vocab = _make_half(observation, where, VOCAB, source, shards, source)
    return Plan(placement.epoch, source, tuple(layers), vocab)


def _layers_by_hub(observation: Observation, where: Mapping[Block, str]) -> list[LayerPlan]:
    shape, partition = observation.shape, observation.partition
    attention, ffn = halves_of(partition)
    layers: list[LayerPlan] = []
    holder = observation.source
    for layer in range(shape.layers):
        blocks = layer_blocks(shape, partition, layer)
        middle, end = where[blocks[shape.kv_heads]], where[blocks[-1]]
        first = _make_half(observation, where, attention, holder, blocks[: shape.kv_heads], middle)
        second = _make_half(observation, where, ffn, middle, blocks[shape.kv_heads + 1 : -1], end)
        layers.append(LayerPlan(first, second))
        holder = end
    return layers


def _layers_all_to_all(observation: Observation, where: Mapping[Block, str]) -> list[LayerPlan]:
    """Each device adds up for itself while it still has work to do in the token; the source always does."""
    shape, partition = observation.shape, observation.partition
    names = [view.name for view in observation.devices]
    works: list[dict[str, tuple[int, ...]]] = []
    for layer in range(shape.layers):
        blocks = layer_blocks(shape, partition, layer)
        works += [_held(names, where, half) for half in (blocks[: shape.kv_heads], blocks[shape.kv_heads :])]
    last = {device: half for half, work in enumerate(works) for device in work}
    rest = [name for name in names if name in last and name != observation.source]
    halves = [
        HalfPlan(
            work, observation.source, () if half else tuple(rest), tuple(name for name in rest if last[name] > half)
        )
        for half, work in enumerate(works)
    ]
    return [LayerPlan(*pair) for pair in zip(halves[::2], halves[1::2], strict=True)]


def _held(names: Iterable[str], where: Mapping[Block, str], blocks: Iterable[Block]) -> dict[str, tuple[int, ...]]:
    """Device -> the indices of these blocks that it has, in the order of devices; devices with none are left out."""
    held: dict[str, list[int]] = {}
    for block in blocks:
        held.setdefault(where[block], []).append(block.index)
    return {name: tuple(held[name]) for name in names if name in held}


def _make_half(
    observation: Observation,
    where: Mapping[Block, str],
    half: HalfKind,
    holder: str,
    blocks: tuple[Block, ...],
    target: str,
) -> HalfPlan:
    """One half from the blocks that work side by side."""
    work = _held((view.name for view in observation.devices), where, blocks)
    tails = [(device, tail_seconds(observation, half, device, parts, target)) for device, parts in work.items()]
    return HalfPlan(work, target, send_order(holder, target, tails))


# --- what travels --------------------------------------------------------------------------------------------


def x_payload(shape: ModelShape, rows: int = 1) -> float:
    """Payload bytes of an x or y message of `rows` tokens: rows·D·b_act."""
    return rows * shape.width * shape.activation_bytes


def result_payload(shape: ModelShape, heads: int, rows: int = 1) -> float:
    """Payload bytes of the one message with the outputs of `heads` KV groups: rows·heads·r·d·b_act."""
    return rows * heads * shape.queries_per_group * shape.head_dim * shape.activation_bytes


def partial_payload(shape: ModelShape, roots: int, rows: int = 1) -> float:
    """Payload bytes of the one message with `roots` partial sums: rows·roots·D·b_act."""
    return roots * x_payload(shape, rows)


CHOICE_NUMBERS = 6  # of four bytes: the largest logit, its index, and a digest of 16 bytes


def choice_payload(shards: int) -> float:
    """Payload bytes of the one message with the choices of `shards` shards of the LM head."""
    return 4 * CHOICE_NUMBERS * shards


def work_payload(shape: ModelShape, half: HalfKind, work: tuple[int, ...], rows: int = 1) -> float:
    """Payload bytes of the one message from a device with these heads or shards to the device where results meet."""
    if half.partial:
        return partial_payload(shape, len(tree_roots(work)), rows)
    if half.work == "vocab":
        return choice_payload(len(work))
    return result_payload(shape, len(work), rows)


def plan_messages(
    shape: ModelShape, plan: Plan, rows: int = 1, partition: Partition = WHOLE
) -> Iterator[tuple[str, str, float]]:
    """(from, to, payload bytes) of each network message of one step with `rows` tokens, in the order of layers.

    Only the last row of the last x goes back to the source. Blocks on one device hand over without a message.
    """
    x = x_payload(shape, rows)
    kinds = halves_of(partition)
    holder = plan.source
    for layer in plan.layers:
        for kind, half in zip(kinds, (layer.attention, layer.ffn), strict=True):
            for device in half.x_order:
                yield holder, device, x
            for device, work in half.work.items():
                for target in half.receivers(device):
                    if device != target:
                        yield device, target, work_payload(shape, kind, work, rows)
            holder = half.target
    if holder != plan.source:
        yield holder, plan.source, x_payload(shape, 1)
    if plan.vocab is not None:
        for device in plan.vocab.x_order:
            yield plan.source, device, x_payload(shape, 1)
        for device, work in plan.vocab.work.items():
            if device != plan.source:
                yield device, plan.source, work_payload(shape, VOCAB, work)


def plan_wire_bytes(shape: ModelShape, plan: Plan, rows: int = 1, partition: Partition = WHOLE) -> float:
    """Bytes on the links (headers included) for one step with `rows` tokens."""
    return sum(wire_bytes(payload) for _, _, payload in plan_messages(shape, plan, rows, partition))
