"""Repairing a draft: blocks leave the devices that can no longer hold them, at the least predicted cost."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from testbed.placement.cost.memory import Infeasible, Shortage
from testbed.placement.cost.packing import first_fit, pack
from testbed.placement.local.draft import Draft, Shift

Leaving = list[tuple[int, ...]]  # for each overloaded device, how many blocks of each kind leave it

COMBINATIONS = 4096  # combinations of counts looked at in one decision; their number is a product over devices
QUICKLY_PACKED_KINDS = 3  # with more kinds exact packing can take long, so first-fit tries all combinations before it
EXACT_PACKINGS = 16  # combinations that are then packed exactly: the first ones, which move the fewest bytes


def repair(draft: Draft, who: str) -> None:
    """Move blocks off devices that can no longer hold theirs; raises Infeasible when double residency forbids it.

    Each step takes the group of blocks with the least rise in predicted cost per byte of relief. If the steps come to
    a dead end, all of them are taken back, and numbers of blocks of each kind are packed instead.
    """
    start = list(draft.where)
    while overloaded := draft.overloaded():
        if not _relieve(draft, overloaded[0]):
            draft.become(start)
            _repair_by_counts(draft, who)
            return


def _relieve(draft: Draft, device: int) -> bool:
    """Take the best group off a device; False where no other device can hold any."""
    best: tuple[float, int, list[Shift]] | None = None
    cost, excess = draft.cost, draft.excess(device)
    for turn, shifts in enumerate(_evacuations(draft, device)):
        undo = draft.try_shifts(shifts)
        if undo is None:
            continue
        relief = min(excess, excess - draft.excess(device))
        rise = draft.cost - cost
        draft.take_back(undo)
        if relief > 0:
            price = rise / relief if rise > 0 else rise * relief
            if best is None or (price, turn) < best[:2]:
                best = (price, turn, shifts)
    if best is None:
        return False
    draft.apply(best[2])
    return True


def _evacuations(draft: Draft, device: int) -> Iterator[list[Shift]]:
    """Groups of blocks of one layer, or of LM head shards, from one device to each other one."""
    others = [target for target in draft.devices if target != device]
    for layer in range(draft.layers):
        here = [slot for slot in draft.slots.of_layer(layer) if draft.where[slot] == device]
        heads = [slot for slot in here if slot in draft.heads(layer)]
        large = here[len(heads) :]
        groups = [heads[:count] for count in range(1, len(heads) + 1)] + [[slot] for slot in large]
        groups += [large[:count] for count in range(2, len(large))] if draft.shards(layer) else []
        groups += [large] if len(large) > 1 else []
        groups += [here, [*heads, *large[:1]]] if heads and large else []
        for group in groups:
            for target in others:
                yield [(slot, target) for slot in group]
    vocab = [slot for slot in draft.slots.vocab if draft.where[slot] == device]
    for count in range(1, len(vocab) + 1):
        for target in others:
            yield [(slot, target) for slot in vocab[:count]]


def _repair_by_counts(draft: Draft, who: str) -> None:
    """Decide how many blocks of each kind leave each overloaded device, and pack them where they fit."""
    overloaded = draft.overloaded()
    receivers = [device for device in draft.devices if device not in overloaded]
    rooms = [draft.room(device) for device in receivers]
    kinds = range(len(draft.slots.kinds))
    sizes = [draft.size_of_kind(kind) for kind in kinds]
    order = sorted(kinds, key=lambda kind: -sizes[kind])
    leaving = _evacuation_counts(draft, overloaded)
    packings = [(counts, pack) for counts in leaving]
    if len(kinds) > QUICKLY_PACKED_KINDS:
        packings = [(counts, first_fit) for counts in leaving] + packings[:EXACT_PACKINGS]
    for counts, packer in packings:
        total = [sum(choice[kind] for choice in counts) for kind in kinds]
        packed = packer(rooms, [(sizes[kind], total[kind]) for kind in order])
        if packed is None:
            continue
        receivers_of: list[list[int]] = [[] for _ in kinds]  # [kind]: a device for each block that leaves
        for receiver, packing in zip(receivers, packed, strict=True):
            for kind, count in zip(order, packing, strict=True):
                receivers_of[kind] += [receiver] * count
        _carry_out(draft, overloaded, counts, receivers_of)
        return
    raise _refusal(draft, who, max(overloaded, key=draft.excess))


def _carry_out(draft: Draft, overloaded: list[int], counts: Leaving, receivers_of: list[list[int]]) -> None:
    """The last blocks of each kind leave each overloaded device, as many as `counts` says."""
    shifts: list[Shift] = []
    for device, choice in zip(overloaded, counts, strict=True):
        for kind, count in enumerate(choice):
            held = [slot for slot, where in enumerate(draft.where) if where == device and draft.kind(slot) == kind]
            shifts += [(slot, receivers_of[kind].pop(0)) for slot in held[len(held) - count :]]
    draft.apply(shifts)


def _evacuation_counts(draft: Draft, overloaded: list[int]) -> list[Leaving]:
    """How many blocks of each kind could leave the overloaded devices, in at most `COMBINATIONS` combinations.

    For each choice of the other kinds, as many heads leave as are still needed. Sums weigh next to nothing, so all of
    a device's sums leave together or stay.
    """
    combined: list[Leaving] = [[]]
    kinds = draft.slots.kinds
    sizes = [draft.end_size_of_kind(kind) for kind in range(len(kinds))]
    for device in overloaded:
        held = [0] * len(sizes)
        for slot, where in enumerate(draft.where):
            if where == device:
                held[draft.kind(slot)] += 1
        options = [
            [0, count] if name == "sum" and count else range(count + 1) for name, count in zip(kinds, held, strict=True)
        ]
        choices: list[tuple[int, ...]] = []
        for backwards in product(*reversed(options[1:])):
            others = backwards[::-1]
            left = draft.excess(device) - sum(n * size for n, size in zip(others, sizes[1:], strict=True))
            heads = max(0, -(-left // sizes[0]))
            if heads <= held[0]:
                choices.append((heads, *others))
        choices.sort(key=lambda choice: sum(n * size for n, size in zip(choice, sizes, strict=True)))
        combined = [[*chosen, choice] for chosen in combined for choice in choices][:COMBINATIONS]
    return combined


def _refusal(draft: Draft, who: str, device: int) -> Infeasible:
    shortage = Shortage(
        draft.model.names[device], draft.end_bytes[device], draft.budgets[device], "what must leave fits nowhere else"
    )
    return Infeasible(
        f"{who} cannot repair the placement after {draft.observation.tokens_done} tokens: {shortage}; until commit "
        "every receiving device must hold its old blocks and the incoming ones together",
        shortage,
    )
