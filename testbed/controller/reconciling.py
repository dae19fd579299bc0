"""After a loss: who holds which block, what must be loaded anew, and what must be dropped. Pure functions.

A loss can come at any moment, also when some devices have committed an epoch and others have not. So nothing is
concluded from what devices were told: each living device says what it holds, and everything follows from that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from testbed.controller.migration import Move
from testbed.placement.blocks import Block, Placement, copied_bytes, resident_bytes
from testbed.placement.observation import Observation

Held = Mapping[str, Collection[Block]]  # living device -> the blocks that it holds


def without(observation: Observation, lost: Collection[str]) -> Observation:
    """The observation in which lost devices have no room for a block, so that every policy moves off them.

    Their copies of biases stay counted, because they are no blocks and every budget must cover them.
    """
    if not lost:
        return observation
    kept = copied_bytes(observation.shape, observation.partition)
    devices = tuple(replace(view, available_bytes=kept) if view.name in lost else view for view in observation.devices)
    return replace(observation, devices=devices)


def present(placement: Placement, held: Held) -> Placement:
    """Where every block is now: at its owner if that still holds it, else at who holds it.

    A block that nobody holds stays with its owner, which is lost or has dropped it.
    """
    devices = {}
    for block, owner in placement.devices.items():
        holders = [device for device, blocks in held.items() if block in blocks]
        devices[block] = owner if owner in holders or not holders else holders[0]
    return replace(placement, devices=devices)


def left_behind(wanted: Placement, lost: Collection[str], observation: Observation) -> list[Block]:
    """The blocks that a placement leaves on lost devices. Those of no size do not count."""
    length, partition = observation.length, observation.partition
    return [
        block
        for block, device in wanted.devices.items()
        if device in lost and resident_bytes(observation.shape, block, length, partition)
    ]


def loads(now: Placement, wanted: Placement, held: Held) -> list[Move]:
    """The blocks that devices must load because they do not hold them. Nothing of them travels."""
    return [
        Move(block, now.devices[block], device, 0)
        for block, device in sorted(wanted.devices.items(), key=lambda item: item[0].sort_key)
        if block not in held[device]
    ]


def drops(wanted: Placement, held: Held) -> dict[str, tuple[Block, ...]]:
    """The blocks that each living device holds and is not to have."""
    return {
        device: tuple(sorted(block for block in blocks if wanted.devices.get(block) != device))
        for device, blocks in held.items()
    }


Rows = Mapping[str, Mapping[Block, int]]  # living device -> the replicas that it has, each with its rows


def adopted(now: Placement, held: Held, replicas: Rows) -> Placement:
    """`now` with each head that nobody holds at the device that has the most rows of its cache, if any has."""
    moves = []
    for block, owner in now.devices.items():
        if block in held.get(owner, ()):
            continue
        homes = [device for device, rows in replicas.items() if rows.get(block)]
        if homes:
            moves.append((block, max(homes, key=lambda device: replicas[device][block])))
    return now.with_moves(moves) if moves else now


def whole_rows(wanted: Placement, held: Held, replicas: Rows, length: int) -> int:
    """How many rows every cache will have under a placement without being recomputed, at most `length`."""
    least = length
    for block, device in wanted.devices.items():
        if block.kind == "head" and block not in held[device]:
            least = min(least, replicas.get(device, {}).get(block, 0))
    return least
