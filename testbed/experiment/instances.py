"""Generated instances: the memory that a model needs of a topology, and the traces that fit a topology.

An experiment may have `topology: {generate: …}` and `traces: [{generate: …}]` in place of files. Both are drawn from
the experiment's `seed`: each seed is another instance, and all policies meet the same ones. The loaded experiment, and
therefore the run's manifest, contains everything that was drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from testbed.errors import ConfigError
from testbed.placement.blocks import Block, Partition, blocks_of, copied_bytes, pinned_bytes, resident_bytes
from testbed.placement.cost.packing import pack
from testbed.shape import ModelShape
from testbed.strict_yaml import shown, suggest
from testbed.topologies.generate import ModelNeed
from testbed.topologies.model import Topology
from testbed.traces import Change, Trace
from testbed.traces.fluctuation import Nominal, fluctuation
from testbed.traces.generate import GENERATORS, generate

FLUCTUATION = "fluctuation"
EVERY = {"link/*": "link", "device/*": "device"}


def model_need(shape: ModelShape, partition: Partition, length: int) -> ModelNeed:
    """The memory that the model needs at sequence length `length`."""
    counts = Counter(block.kind for block in blocks_of(shape, partition))
    sizes = [(resident_bytes(shape, Block(kind, 0), length, partition), count) for kind, count in counts.items()]
    sizes.sort(reverse=True)
    copied = copied_bytes(shape, partition)

    def fits(rooms: Sequence[int]) -> bool:
        left = [room - copied for room in rooms]
        if min(left) < 0 or any(sum(room // size for room in left) < count for size, count in sizes if size):
            return False  # not even each kind by itself, which `pack` may take seconds to find out
        return pack(left, sizes) is not None

    return ModelNeed(pinned_bytes(shape, partition), sum(size * count for size, count in sizes), fits)


def generate_trace(
    entry: Mapping[str, Any], topology: Topology, pinned: int, seed: int, length: float, number: int, where: str
) -> Trace:
    """The trace that an entry `{generate: KIND, target: …, …}` describes on this topology; raises ConfigError.

    `length` is the length of the run in tokens, and `number` the trace's index in the experiment. `fluctuation` also
    accepts the targets `link/*` and `device/*`, which mean all links or devices, each with its own walk. The memory of
    the source never falls below the `pinned` bytes, which cannot move away.
    """
    options = dict(entry)
    kind, target, own = options.pop("generate"), options.pop("target", None), options.pop("seed", 0)
    known = (FLUCTUATION, *GENERATORS)
    if kind not in known:
        raise ConfigError(f"{where}.generate is {shown(kind)}, which is no trace generator{suggest(kind, known)}")
    if not isinstance(target, str):
        raise ConfigError(f"{where}.target is {shown(target)}, but it must be link/NAME or device/NAME")
    if type(own) is not int or own < 0:
        raise ConfigError(f"{where}.seed is {shown(own)}, but it must be a whole number from 0 on")
    drawn = Random(f"trace/{kind}/{seed}/{own}/{number}")
    try:
        if kind != FLUCTUATION:
            return generate(kind, target, int(drawn.random() * 2**31), options)
        changes: list[Change] = []
        found = _targets(target, topology)
        if not found:
            raise ConfigError(f"target is {target}, but topology {topology.name} has no link: drop this trace")
        for one in found:
            kept = pinned if one == f"device/{topology.source}" else 0
            walk = fluctuation(one, _nominal(one, topology, kept), int(drawn.random() * 2**31), length, options)
            changes += walk.changes if not kept else (_plus(row, kept) for row in walk.changes)
        return Trace(tuple(changes), name=FLUCTUATION)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _plus(row: Change, kept: int) -> Change:
    return replace(row, value=(row.value or 0.0) + kept) if row.quantity == "memory" else row


def _targets(target: str, topology: Topology) -> list[str]:
    if target not in EVERY:
        return [target]
    kind = EVERY[target]
    named = topology.links if kind == "link" else topology.devices
    return [f"{kind}/{one.name}" for one in named]


def _nominal(target: str, topology: Topology, kept: int) -> Nominal:
    """The topology's values of a link or device, in the words of traces; the memory without its `kept` bytes."""
    kind, _, name = target.partition("/")
    if kind == "device":
        device = topology.device(name)
        return {
            "memory": {"memory": float(max(0, device.memory_bytes - kept))},
            "compute": {"compute": device.compute_flops, "streaming": device.streaming_Bps},
        }
    for cable in topology.links:
        if kind == "link" and cable.name == name:
            return {"rate": {"up": cable.link.up_bps, "down": cable.link.down_bps}}
    names = [f"link/{cable.name}" for cable in topology.links]
    raise ConfigError(f"topology {topology.name} has no {target}{suggest(target, names)}")
