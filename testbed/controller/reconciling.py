"""After a loss: who holds which block, what must be loaded anew, and what must be dropped. Pure functions.

A loss can come at any moment, also when some devices have committed an epoch and others have not. So nothing is
concluded from what devices were told: each living device says what it holds, and everything follows from that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from testbed.controller.migration import Move
from testbed.placement.blocks import Block, Placement, copied_bytes, replica_bytes, resident_bytes
from testbed.placement.cost.memory import device_needs, kinds_at
from testbed.placement.cost.packing import pack
from testbed.placement.observation import Observation
from testbed.units import format_bytes

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


def off_the_lost(wanted: Placement, lost: Collection[str], observation: Observation) -> Placement:
    """The placement with blocks of no size on the source rather than on lost devices, where they fit as anywhere."""
    left = set(left_behind(wanted, lost, observation))
    nothing = [block for block, device in wanted.devices.items() if device in lost and block not in left]
    return wanted.with_moves((block, observation.source) for block in nothing) if nothing else wanted


def overfull(observation: Observation, held: Held, wanted: Placement) -> str | None:
    """A sentence on a living device that cannot hold what it has beside what it must load, or in the end; or None."""
    for device, blocks in held.items():
        after = wanted.on(device)
        for length, together in ((observation.length, {*blocks, *after}), (observation.final_length, {*after})):
            need, budget = (
                _held_bytes(observation, device, together, length),
                observation.device(device).available_bytes,
            )
            if need > budget:
                return f"device {device} would need {format_bytes(need)}, its budget is {format_bytes(budget)}"
    return None


def filled_in(observation: Observation, now: Placement, held: Held) -> Placement | None:
    """The placement in which the living keep what they have, and take what nobody has wherever it fits; or None.

    It fits to the run's end if one does, because a policy may leave it as it is, and else to the interval's end.
    """
    whole_run = replace(observation, interval=max(1, observation.tokens_max - observation.tokens_done))
    return _packed(whole_run, now, held) or _packed(observation, now, held)


def _packed(observation: Observation, now: Placement, held: Held) -> Placement | None:
    missing = [block for block, device in now.devices.items() if block not in held.get(device, ())]
    kinds = [(kind, size) for kind, size, _ in kinds_at(observation, observation.final_length)]
    of_kind = [[block for block in missing if block.kind == kind] for kind, _ in kinds]
    rooms = [_room(observation, now, device, blocks) for device, blocks in held.items()]
    sizes = [(size, len(blocks)) for (_, size), blocks in zip(kinds, of_kind, strict=True)]
    packed = pack(rooms, sizes) if min(rooms) >= 0 else None
    if packed is None:
        return None
    taken = [
        (block, device)
        for number, blocks in enumerate(of_kind)
        for block, device in zip(
            blocks,
            (device for device, counts in zip(held, packed, strict=True) for _ in range(counts[number])),
            strict=True,
        )
    ]
    return now.with_moves(taken)


def _room(observation: Observation, now: Placement, device: str, blocks: Collection[Block]) -> int:
    """Bytes that a device has left until the commit, and at the interval's end."""
    present_bytes = _held_bytes(observation, device, blocks, observation.length)
    final_bytes = _held_bytes(
        observation, device, [block for block in now.on(device) if block in blocks], observation.final_length
    )
    return observation.device(device).available_bytes - max(present_bytes, final_bytes)


def _held_bytes(observation: Observation, device: str, blocks: Collection[Block], length: int) -> int:
    sizes = {kind: size for kind, size, _ in kinds_at(observation, length)}
    return device_needs(observation, None, length)[device] + sum(sizes[block.kind] for block in blocks)


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


def whole_rows(placed: Placement, held: Held, replicas: Rows, length: int) -> int:
    """How many rows of every cache are where a placement has it, at most `length`."""
    least = length
    for block, device in placed.devices.items():
        if block.kind == "head" and block not in held.get(device, ()):
            least = min(least, replicas.get(device, {}).get(block, 0))
    return least


def with_rows(
    moves: Iterable[Move], sources: Placement, replicas: Rows, rows: int, row_bytes: int
) -> list[Move]:  # fmt: skip
    """The moves with so many rows of each cache, from its source unless the device has a replica with as many.

    The source of what a device has itself is the device.
    """
    found = []
    for move in moves:
        if rows and move.block.kind == "head":
            there = replicas.get(move.destination, {}).get(move.block, 0) >= rows
            source = move.destination if there else sources.devices[move.block]
            found.append(replace(move, source=source, payload_bytes=0 if there else rows * row_bytes))
        else:
            found.append(move)
    return found


def lasting(observation: Observation, held: Held, wanted: Placement, replicas: Rows, length: int) -> Rows:
    """The replicas that are left once devices have set memory aside for the blocks that come to them.

    A device that has not enough for all keeps the replicas of these blocks alone.
    """
    size, left = replica_bytes(observation.shape, length), dict[str, Mapping[Block, int]]()
    for device, rows in replicas.items():
        together = {*held[device], *wanted.on(device)}
        need = _held_bytes(observation, device, together, length) + size * sum(one not in together for one in rows)
        fits = need <= observation.device(device).available_bytes
        left[device] = rows if fits else {block: count for block, count in rows.items() if block in together}
    return left
