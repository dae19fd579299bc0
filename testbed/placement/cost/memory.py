"""What fits in memory: what a device needs, what a change needs until commit, and proofs that nothing can fit.

Bytes are whole pages, as a device's ledger shows them. This module knows budgets, not latencies.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from testbed.errors import RunFailed
from testbed.placement.blocks import Block, Partition, Placement, blocks_of, copied_bytes, pinned_bytes, resident_bytes
from testbed.placement.cost.packing import pack
from testbed.placement.observation import Observation
from testbed.shape import ModelShape
from testbed.units import format_bytes

DOUBLE_RESIDENCY = "double residency"
END_OF_INTERVAL = "end of interval"


@dataclass(frozen=True)
class Shortage:
    """One device that cannot hold what a decision asks of it."""

    device: str
    need_bytes: int
    budget_bytes: int
    reason: str  # a few words: from `shortages` DOUBLE_RESIDENCY or END_OF_INTERVAL, from a policy its own

    def __str__(self) -> str:
        need, budget = format_bytes(self.need_bytes), format_bytes(self.budget_bytes)
        return f"device {self.device} needs {need} and has {budget} ({self.reason})"


class Infeasible(RunFailed):
    """A policy found no placement that fits; `shortage`, where given, is a device with its need and its budget."""

    def __init__(self, message: str, shortage: Shortage | None = None) -> None:
        super().__init__(message)
        self.shortage = shortage


def check_complete(observation: Observation, placement: Placement) -> None:
    """Raise RunFailed unless every block of the model is on a device of the observation, and nothing else is."""
    known = sorted(view.name for view in observation.devices)
    blocks = dict.fromkeys(blocks_of(observation.shape, observation.partition))
    for block in blocks:
        if block not in placement.devices:
            raise RunFailed(f"the placement leaves out {block}: every block needs a device")
        where = placement.devices[block]
        if where not in known:  # a list, because a policy of a user's may give what cannot be hashed
            shown = reprlib.repr(where)
            raise RunFailed(f"the placement puts {block} on {shown}, which is not among {', '.join(known)}")
    for block in placement.devices:
        if block not in blocks:
            raise RunFailed(f"the placement has {block}, which is not a block of {observation.shape.name}")


def device_needs(observation: Observation, placement: Placement | None, length: int) -> dict[str, int]:
    """Bytes each device holds under `placement` (None: nothing placed) at sequence length `length`.

    They include the copies of biases that every device keeps, and what is pinned at the source.
    """
    needs = dict.fromkeys((view.name for view in observation.devices), _copied(observation))
    needs[observation.source] += pinned_bytes(observation.shape, observation.partition)
    if placement is not None:
        sizes = {kind: size for kind, size, _ in kinds_at(observation, length)}
        for block, device in placement.devices.items():
            needs[device] += sizes[block.kind]
    return needs


def shortages(observation: Observation, old: Placement | None, new: Placement) -> list[Shortage]:
    """Every device that cannot carry out the change from `old` (None: the first placement) to `new`.

    Until commit, a device that receives blocks holds all its old ones too, at the present length. After it, the
    placement must fit at the interval's last token. When less memory has been announced, `available_bytes` is the
    smaller value already, while old blocks may stay until commit. So a device that only loses blocks is not short of
    memory before commit.
    """
    found: list[Shortage] = []
    budgets = {view.name: view.available_bytes for view in observation.devices}
    if old is not None:
        both = device_needs(observation, old, observation.length)
        receiving = set()
        for block, _, target in old.moves_to(new):
            both[target] += resident_bytes(observation.shape, block, observation.length, observation.partition)
            receiving.add(target)
        found += [
            Shortage(name, both[name], budget, DOUBLE_RESIDENCY)
            for name, budget in budgets.items()
            if name in receiving and both[name] > budget
        ]
    final = device_needs(observation, new, observation.final_length)
    found += [
        Shortage(name, final[name], budget, END_OF_INTERVAL) for name, budget in budgets.items() if final[name] > budget
    ]
    return found


def refuse_shortages(observation: Observation, old: Placement | None, new: Placement, who: str) -> Placement:
    """Returns `new` if it can be carried out; otherwise raises Infeasible, which names the first shortage."""
    found = shortages(observation, old, new)
    if found:
        done = observation.tokens_done
        raise Infeasible(f"{who} found no placement that fits after {done} tokens: {found[0]}", found[0])
    return new


def kinds_at(observation: Observation, length: int) -> tuple[tuple[str, int, int], ...]:
    """(kind, bytes of one block at `length`, number of blocks), largest first."""
    return _kinds_at(observation.shape, observation.partition, length)


@lru_cache(maxsize=256)
def _kinds_at(shape: ModelShape, partition: Partition, length: int) -> tuple[tuple[str, int, int], ...]:
    counts = Counter(block.kind for block in blocks_of(shape, partition))
    sizes = {kind: resident_bytes(shape, Block(kind, 0), length, partition) for kind in counts}
    return tuple((kind, sizes[kind], counts[kind]) for kind in sorted(counts, key=lambda kind: -sizes[kind]))


def rooms_for(observation: Observation) -> list[int]:
    """Bytes each device has for blocks: its budget less its copies of biases and, at the source, what is pinned."""
    kept = device_needs(observation, None, 0)
    return [view.available_bytes - kept[view.name] for view in observation.devices]


def _copied(observation: Observation) -> int:
    return copied_bytes(observation.shape, observation.partition)


def any_placement(observation: Observation, length: int | None = None) -> Placement | None:
    """Some placement that fits at `length` (default: the interval's last token), or None when none exists.

    Blocks are taken in the order a token meets them and devices in index order. What is placed now plays no part.
    """
    kinds = kinds_at(observation, observation.final_length if length is None else length)
    rooms = rooms_for(observation)
    packed = pack(rooms, [(size, count) for _, size, count in kinds]) if min(rooms) >= 0 else None
    if packed is None:
        return None
    devices: dict[Block, str] = {}
    for number, (kind, _, _) in enumerate(kinds):
        pairs = zip(observation.devices, packed, strict=True)
        places = [view.name for view, counts in pairs for _ in range(counts[number])]
        of_kind = [block for block in blocks_of(observation.shape, observation.partition) if block.kind == kind]
        devices.update(zip(of_kind, places, strict=True))
    return Placement(dict(sorted(devices.items())))


def nothing_fits(observation: Observation, length: int | None = None) -> str | None:
    """One sentence that says why no placement can fit at `length`, or None when one exists."""
    length = observation.final_length if length is None else length
    plain = too_little_memory(observation, length)
    if plain is not None:
        return plain
    kinds, rooms = kinds_at(observation, length), rooms_for(observation)
    if pack(rooms, [(size, count) for _, size, count in kinds]) is None:
        return (
            f"the model's {format_bytes(_needed(observation, length))} at {length} tokens cannot be divided into whole "
            f"blocks over devices with {format_bytes(_given(observation))} together: give them more memory"
        )
    return None


def too_little_memory(observation: Observation, length: int | None = None) -> str | None:
    """The answer of `nothing_fits` where sums and the largest block decide, without packing; None where they do not."""
    length = observation.final_length if length is None else length
    pinned, source = device_needs(observation, None, 0)[observation.source], observation.device(observation.source)
    if pinned > source.available_bytes:
        return (
            f"embedding and LM head need {format_bytes(pinned)} on the source {source.name}, "
            f"whose budget is {format_bytes(source.available_bytes)}: give it more memory"
        )
    kinds, rooms = kinds_at(observation, length), rooms_for(observation)
    if min(rooms) < 0:
        poorest = observation.devices[rooms.index(min(rooms))]
        return (
            f"its own copy of all sums needs {format_bytes(_copied(observation))} on device {poorest.name}, whose "
            f"budget is {format_bytes(poorest.available_bytes)}: give it more memory"
        )
    kind, biggest, _ = kinds[0]
    if biggest > max(rooms):
        return (
            f"one {kind} block needs {format_bytes(biggest)} at {length} tokens, and no device has more than "
            f"{format_bytes(max(rooms))} for blocks: give one more memory"
        )
    need, budget = _needed(observation, length), _given(observation)
    if need > budget:
        return (
            f"the model needs {format_bytes(need)} at {length} tokens, and all devices together have "
            f"{format_bytes(budget)}: give them more memory or generate fewer tokens"
        )
    return None


def _needed(observation: Observation, length: int) -> int:
    """Bytes of the whole model at a length, with what is pinned at the source and every device's copies."""
    kept = sum(device_needs(observation, None, 0).values())
    return kept + sum(size * count for _, size, count in kinds_at(observation, length))


def _given(observation: Observation) -> int:
    """Bytes of all budgets together."""
    return sum(view.available_bytes for view in observation.devices)
