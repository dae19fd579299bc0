"""Improving and repairing a draft: the moves that policies try, in a fixed order.

Single blocks, all heads of one device, half-layers, layers, runs of two layers, and exchanges between layers; where
an FFN is cut into shards, also some or all of a device's shards, their sum, and shards spread anew over the fastest
devices. Each is accepted only if every receiving device can hold it and the predicted cost falls (improve), or per byte
of relief rises least (repair). Deterministic: no randomness, no clock; the effort is bounded by a count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from testbed.placement.cost.memory import Infeasible, Shortage
from testbed.placement.cost.packing import first_fit, pack
from testbed.placement.local.draft import Draft, Shift
from testbed.placement.tree import align

EFFORT = 40_000  # candidate moves looked at in one decision, at most
COMBINATIONS = 4096  # ways to evacuate by counts that are looked at in one decision, at most
EXACT_PACKINGS = 16  # of those, how many are packed exactly where there are more than three kinds of blocks
WORTHWHILE_S = 1e-7  # smaller predicted gains are rounding


def layer_candidates(draft: Draft, layer: int) -> Iterator[list[Shift]]:
    """Groups of moves that begin in one layer; generated as the draft is when each is asked for."""
    if not draft.hub:
        yield from _candidates_without_hub(draft, layer)
        return
    base, heads, devices = layer * draft.stride, draft.heads, range(len(draft.budgets))
    middle = base + heads  # proj, or where its partial sums meet
    all_heads, ffn = list(range(base, middle)), list(range(middle + 1, base + draft.stride))
    following = list(range(base + draft.stride, base + 2 * draft.stride)) if layer + 1 < draft.layers else []
    for target in devices:
        yield [(middle, target)]
        yield [(slot, target) for slot in ffn]
        yield [(slot, target) for slot in (middle, *ffn)]
        yield [(slot, target) for slot in all_heads]
        yield [(slot, target) for slot in (*all_heads, middle)]
        yield [(slot, target) for slot in (*all_heads, middle, *ffn)]
        if following:
            yield [(slot, target) for slot in (*ffn, *following[: heads + 1])]
            yield [(slot, target) for slot in (*all_heads, middle, *ffn, *following)]
        for source in devices:
            yield from _thinned(draft, all_heads, source, target)
            yield from _thinned(draft, ffn[:-1], source, target)
    if draft.shards:
        yield from _shard_candidates(draft, layer)


def _candidates_without_hub(draft: Draft, layer: int) -> Iterator[list[Shift]]:
    """The same where there are only heads and shards; and, where the layer is the first, all that a device has."""
    base, middle, end = (layer * draft.stride + part for part in (0, draft.heads, draft.stride))
    heads, shards, devices = range(base, middle), range(middle, end), range(len(draft.budgets))
    following = range(end, end + draft.stride) if layer + 1 < draft.layers else ()
    for target in devices:
        for group in (heads, shards, range(base, end), (*range(base, end), *following)):
            yield [(slot, target) for slot in group]
        for source in devices:
            yield from _thinned(draft, heads, source, target)
            yield from _thinned(draft, shards, source, target)
            if layer == 0:  # who has nothing takes no part in any exchange
                yield [(slot, target) for slot in range(draft.layer_slots) if draft.where[slot] == source]
    yield from _spread(draft, heads)
    yield from _spread(draft, shards)


def _thinned(draft: Draft, slots: Sequence[int], source: int, target: int) -> Iterator[list[Shift]]:
    """One, all or half of the heads (or shards) on one device to another."""
    here = [slot for slot in slots if draft.where[slot] == source]
    if here and source != target:
        yield [(here[-1], target)]
        if len(here) > 1:
            yield [(slot, target) for slot in here]
        if len(here) > 3:
            yield [(slot, target) for slot in here[len(here) // 2 :]]


def _shard_candidates(draft: Draft, layer: int) -> Iterator[list[Shift]]:
    """The sum of an FFN alone or with its device's shards, and the shards spread over the fastest devices."""
    base, heads = layer * draft.stride, draft.heads
    shards, last = range(base + heads + 1, base + draft.stride - 1), base + draft.stride - 1
    devices = range(len(draft.budgets))
    for target in devices:
        yield [(last, target)]
        yield [(slot, target) for slot in (base + heads, last)]
    for spread in _spread(draft, shards):
        yield spread
        yield [*spread, (last, draft.where[base + heads])]


def _spread(draft: Draft, shards: range) -> Iterator[list[Shift]]:
    """Shards dealt anew to the fastest devices, two or more of them."""
    speeds = draft.model.seconds(draft.kinds[draft.kind(shards[0])], draft.model.lengths[0])
    fastest = sorted(range(len(speeds)), key=lambda device: (speeds[device], device))
    for number in range(2, min(len(fastest), len(shards)) + 1):
        counts = [0] * len(speeds)
        for _ in shards:  # each to the device that would have done it first
            device = min(fastest[:number], key=lambda device: ((counts[device] + 1) * speeds[device], device))
            counts[device] += 1
        yield [(shards[leaf], device) for device, leaves in enumerate(align(counts)) for leaf in leaves]


def _vocab_candidates(draft: Draft) -> Iterator[list[Shift]]:
    """The shards of the LM head: one, half or all of a device's to another, or all spread anew."""
    shards = range(draft.layer_slots, len(draft.blocks))
    if not shards:
        return
    for target in range(len(draft.budgets)):
        yield [(slot, target) for slot in shards]
        for source in range(len(draft.budgets)):
            yield from _thinned(draft, shards, source, target)
    yield from _spread(draft, shards)


def exchange_candidates(draft: Draft, first: int, second: int) -> Iterator[list[Shift]]:
    """Exchanges between two layers: whole layers, attention halves, or FFNs."""
    one, two = first * draft.stride, second * draft.stride
    for parts in (range(draft.stride), range(draft.first_shard), range(draft.first_shard, draft.stride)):
        swap = [(one + part, draft.where[two + part]) for part in parts]
        yield swap + [(two + part, draft.where[one + part]) for part in parts]


def candidates(draft: Draft) -> Iterator[list[Shift]]:
    """Every group of moves of one sweep."""
    for layer in range(draft.layers):
        yield from layer_candidates(draft, layer)
    yield from _vocab_candidates(draft)
    for first in range(draft.layers):
        for second in range(first + 1, draft.layers):
            yield from exchange_candidates(draft, first, second)


def improve(draft: Draft, effort: int = EFFORT) -> bool:
    """Sweep over the candidates, taking each that lowers the predicted interval cost, until none does."""
    cost = draft.cost
    changed = True
    ever = False
    while changed and effort > 0:
        changed = False
        for moves in candidates(draft):
            effort -= 1
            if effort < 0:
                break
            undo = draft.try_shifts(moves, below=cost)
            if undo is None:
                continue
            now = draft.cost
            if now < cost - WORTHWHILE_S:
                cost, changed, ever = now, True, True
            else:
                draft.take_back(undo)
    return ever


def repair(draft: Draft, who: str) -> None:
    """Move blocks off devices that can no longer hold theirs; raises Infeasible when double residency forbids it.

    Each step takes the group whose rise in predicted cost is least per byte of relief. Where that ends in a dead
    end, the counts of each kind are packed exactly.
    """
    start = list(draft.where)
    while overloaded := draft.overloaded():
        if not _relieve(draft, overloaded[0]):
            draft.apply([(slot, device) for slot, device in enumerate(start) if draft.where[slot] != device])
            _repair_exactly(draft, who)
            return


def _relieve(draft: Draft, device: int) -> bool:
    best: tuple[float, int, list[Shift]] | None = None
    cost, excess = draft.cost, draft.excess(device)
    for turn, moves in enumerate(_evacuations(draft, device)):
        undo = draft.try_shifts(moves)
        if undo is None:
            continue
        relief = min(excess, excess - draft.excess(device))
        rise = draft.cost - cost
        draft.take_back(undo)
        if relief > 0:
            price = rise / relief if rise > 0 else rise * relief
            if best is None or (price, turn) < best[:2]:
                best = (price, turn, moves)
    if best is None:
        return False
    draft.apply(best[2])
    return True


def _evacuations(draft: Draft, device: int) -> Iterator[list[Shift]]:
    others = [target for target in range(len(draft.budgets)) if target != device]
    for layer in range(draft.layers):
        base = layer * draft.stride
        here = [slot for slot in range(base, base + draft.stride) if draft.where[slot] == device]
        heads = [slot for slot in here if slot < base + draft.heads]
        large = [slot for slot in here if slot >= base + draft.heads]
        groups = [heads[:count] for count in range(1, len(heads) + 1)] + [[slot] for slot in large]
        groups += [large[:count] for count in range(2, len(large))] if draft.shards else []
        groups += [large] if len(large) > 1 else []
        groups += [here, [*heads, *large[:1]]] if heads and large else []
        for group in groups:
            for target in others:
                yield [(slot, target) for slot in group]
    vocab = [slot for slot in range(draft.layer_slots, len(draft.blocks)) if draft.where[slot] == device]
    for count in range(1, len(vocab) + 1):
        for target in others:
            yield [(slot, target) for slot in vocab[:count]]


def _repair_exactly(draft: Draft, who: str) -> None:
    """Evacuate by counts: which numbers of blocks of each kind must leave, and where they all fit."""
    overloaded = draft.overloaded()
    receivers = [device for device in range(len(draft.budgets)) if device not in overloaded]
    rooms = [draft.room(device) for device in receivers]
    kinds = range(len(draft.kinds))
    sizes = [draft.size_of_kind(kind) for kind in kinds]
    order = sorted(kinds, key=lambda kind: -sizes[kind])
    leaving = _evacuation_counts(draft, overloaded)
    packings = [(counts, pack) for counts in leaving]
    if len(kinds) > 3:  # an exact packing may then take a while, so first all that the quick one finds
        packings = [(counts, first_fit) for counts in leaving] + packings[:EXACT_PACKINGS]
    for counts, packer in packings:
        total = [sum(choice[kind] for choice in counts) for kind in kinds]
        packed = packer(rooms, [(sizes[kind], total[kind]) for kind in order])
        if packed is None:
            continue
        seats: list[list[int]] = [[] for _ in kinds]
        for receiver, packing in zip(receivers, packed, strict=True):
            for kind, count in zip(order, packing, strict=True):
                seats[kind] += [receiver] * count
        moves: list[Shift] = []
        for device, choice in zip(overloaded, counts, strict=True):
            for kind, count in enumerate(choice):
                mine = [s for s, where in enumerate(draft.where) if where == device and draft.kind(s) == kind]
                moves += [(slot, seats[kind].pop(0)) for slot in mine[len(mine) - count :]]
        draft.apply(moves)
        return
    worst = max(overloaded, key=draft.excess)
    shortage = Shortage(
        draft.model.names[worst], draft.end_bytes[worst], draft.budgets[worst], "what must leave fits nowhere else"
    )
    raise Infeasible(
        f"{who} cannot repair the placement after {draft.observation.tokens_done} tokens: {shortage}; until commit "
        "every receiving device must hold its old blocks and the incoming ones together",
        shortage,
    )


def _evacuation_counts(draft: Draft, overloaded: list[int]) -> list[list[tuple[int, ...]]]:
    """Combinations, one choice per overloaded device, of how many blocks of each kind leave; bounded.

    Heads make up what the other kinds leave over; sums, which are next to nothing, leave together or stay.
    """
    combined: list[list[tuple[int, ...]]] = [[]]
    sizes = [draft.end_size_of_kind(kind) for kind in range(len(draft.kinds))]
    for device in overloaded:
        held = [0] * len(sizes)
        for slot, where in enumerate(draft.where):
            if where == device:
                held[draft.kind(slot)] += 1
        options = [
            [0, count] if name == "sum" and count else range(count + 1)
            for name, count in zip(draft.kinds, held, strict=True)
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
