"""Improving and repairing a draft: the moves that policies try, in a fixed order.

Single blocks, all heads of one device, half-layers, layers, runs of two layers, and exchanges between layers.
Each is accepted only if every receiving device can hold it and the predicted cost falls (improve), or per byte
of relief rises least (repair). Deterministic: no randomness, no clock; the effort is bounded by a count.
"""

from __future__ import annotations

from collections.abc import Iterator

from testbed.placement.draft import Draft, Move
from testbed.placement.feasibility import Infeasible, Shortage, pack

EFFORT = 40_000  # candidate moves looked at in one decision, at most
COMBINATIONS = 4096  # ways to evacuate by counts that are looked at in one decision, at most
WORTHWHILE_S = 1e-7  # smaller predicted gains are rounding


def layer_candidates(draft: Draft, layer: int) -> Iterator[list[Move]]:
    """Groups of moves that begin in one layer; generated as the draft is when each is asked for."""
    base, heads, devices = layer * draft.stride, draft.heads, range(len(draft.budgets))
    proj, ffn = base + heads, base + heads + 1
    all_heads = list(range(base, proj))
    following = list(range(base + draft.stride, base + 2 * draft.stride)) if layer + 1 < draft.layers else []
    for target in devices:
        yield [(proj, target)]
        yield [(ffn, target)]
        yield [(slot, target) for slot in (proj, ffn)]
        yield [(slot, target) for slot in all_heads]
        yield [(slot, target) for slot in (*all_heads, proj)]
        yield [(slot, target) for slot in (*all_heads, proj, ffn)]
        if following:
            yield [(slot, target) for slot in (ffn, *following[:-1])]
            yield [(slot, target) for slot in (*all_heads, proj, ffn, *following)]
        for source in devices:
            here = [slot for slot in all_heads if draft.where[slot] == source]
            if here and source != target:
                yield [(here[-1], target)]
                if len(here) > 1:
                    yield [(slot, target) for slot in here]
                if len(here) > 3:
                    yield [(slot, target) for slot in here[len(here) // 2 :]]


def exchange_candidates(draft: Draft, first: int, second: int) -> Iterator[list[Move]]:
    """Exchanges between two layers: whole layers, attention halves, or FFNs."""
    one, two = first * draft.stride, second * draft.stride
    for parts in (range(draft.stride), range(draft.heads + 1), (draft.stride - 1,)):
        swap = [(one + part, draft.where[two + part]) for part in parts]
        yield swap + [(two + part, draft.where[one + part]) for part in parts]


def candidates(draft: Draft) -> Iterator[list[Move]]:
    """Every group of moves of one sweep."""
    for layer in range(draft.layers):
        yield from layer_candidates(draft, layer)
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
            undo = draft.try_moves(moves)
            if undo is None:
                continue
            now = draft.cost
            if now < cost - WORTHWHILE_S:
                cost, changed, ever = now, True, True
            else:
                draft.apply(undo)
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
    best: tuple[float, int, list[Move]] | None = None
    cost, excess = draft.cost, draft.excess(device)
    for turn, moves in enumerate(_evacuations(draft, device)):
        undo = draft.try_moves(moves)
        if undo is None:
            continue
        relief = min(excess, excess - draft.excess(device))
        rise = draft.cost - cost
        draft.apply(undo)
        if relief > 0:
            price = rise / relief if rise > 0 else rise * relief
            if best is None or (price, turn) < best[:2]:
                best = (price, turn, moves)
    if best is None:
        return False
    draft.apply(best[2])
    return True


def _evacuations(draft: Draft, device: int) -> Iterator[list[Move]]:
    others = [target for target in range(len(draft.budgets)) if target != device]
    for layer in range(draft.layers):
        base = layer * draft.stride
        here = [slot for slot in range(base, base + draft.stride) if draft.where[slot] == device]
        heads = [slot for slot in here if slot < base + draft.heads]
        large = [slot for slot in here if slot >= base + draft.heads]
        groups = [heads[:count] for count in range(1, len(heads) + 1)] + [[slot] for slot in large]
        groups += [large] if len(large) > 1 else []
        groups += [here, [*heads, *large[:1]]] if heads and large else []
        for group in groups:
            for target in others:
                yield [(slot, target) for slot in group]


def _repair_exactly(draft: Draft, who: str) -> None:
    """Evacuate by counts: which numbers of heads, projs and FFNs must leave, and where they all fit."""
    overloaded = draft.overloaded()
    receivers = [device for device in range(len(draft.budgets)) if device not in overloaded]
    rooms = [draft.room(device) for device in receivers]
    leaving = _evacuation_counts(draft, overloaded)
    sizes = draft.reserved_sizes[draft.heads - 1 : draft.stride]
    for counts in leaving:
        order = sorted(range(3), key=lambda kind: -sizes[kind])
        total = [sum(choice[kind] for choice in counts) for kind in range(3)]
        packed = pack(rooms, [(sizes[kind], total[kind]) for kind in order])
        if packed is None:
            continue
        seats: list[list[int]] = [[], [], []]
        for receiver, packing in zip(receivers, packed, strict=True):
            for kind, count in zip(order, packing, strict=True):
                seats[kind] += [receiver] * count
        moves: list[Move] = []
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


def _evacuation_counts(draft: Draft, overloaded: list[int]) -> list[list[tuple[int, int, int]]]:
    """Combinations, one choice per overloaded device, of (heads, projs, FFNs) to leave; bounded."""
    combined: list[list[tuple[int, int, int]]] = [[]]
    sizes = draft.end_sizes[draft.heads - 1 : draft.stride]
    for device in overloaded:
        held = [0, 0, 0]
        for slot, where in enumerate(draft.where):
            if where == device:
                held[draft.kind(slot)] += 1
        choices: list[tuple[int, int, int]] = []
        for ffns in range(held[2] + 1):
            for projs in range(held[1] + 1):
                left = draft.excess(device) - ffns * sizes[2] - projs * sizes[1]
                heads = max(0, -(-left // sizes[0]))
                if heads <= held[0]:
                    choices.append((heads, projs, ffns))
        choices.sort(key=lambda choice: sum(n * size for n, size in zip(choice, sizes, strict=True)))
        combined = [[*chosen, choice] for chosen in combined for choice in choices][:COMBINATIONS]
    return combined
