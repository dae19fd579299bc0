"""Splitting every layer over devices in proportion to weights: what tensor-parallel policies have in common."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.placement.local.draft import Draft
from testbed.placement.local.improve import repair


def apportion(total: int, weights: Sequence[float], first: int = 0) -> list[int]:
    """`total` things in proportion to `weights` by largest remainder; equal remainders from index `first` on, round."""
    whole = sum(weights)
    if whole <= 0:
        raise ValueError("no weight is positive")
    ideal = [total * weight / whole for weight in weights]
    shares = [int(part) for part in ideal]
    turn = sorted(range(len(weights)), key=lambda j: (shares[j] - ideal[j], (j - first) % len(weights)))
    for j in turn[: total - sum(shares)]:
        shares[j] += 1
    return shares


def split_in_proportion(draft: Draft, weights: Sequence[float], hubs: Sequence[int], who: str) -> None:
    """Fill an empty draft: heads and shards (of FFN, LM head) in proportion to `weights`, the rest on its layer's hub.

    What a device has no memory for goes, part by part from the last layer on, to the device with room that is then
    least loaded for its weight; hubs' parts last. Where that ends in nothing, the cheapest repair is made.
    Raises Infeasible.
    """
    turn = {"head": 0, "ffn": 0}
    for layer in range(draft.layers):
        slots = range(layer * draft.stride, (layer + 1) * draft.stride)
        for kind in turn:
            group = [slot for slot in slots if draft.blocks[slot].kind == kind]
            if kind == "ffn" and not draft.shards:
                continue  # whole: it goes to the hub
            shares = apportion(len(group), weights, turn[kind])
            turn[kind] += len(group) % len(weights)
            seats = [device for device, share in enumerate(shares) for _ in range(share)]
            for slot, device in zip(group, seats, strict=True):
                draft.place(slot, device)
        for slot in slots:
            if draft.where[slot] < 0:
                draft.place(slot, hubs[layer])
    rest = range(draft.layer_slots, len(draft.blocks))  # shards of the LM head
    seats = [device for device, share in enumerate(apportion(len(rest), weights)) for _ in range(share)]
    for slot, device in zip(rest, seats, strict=True):
        draft.place(slot, device)
    draft.refresh()
    for device in range(len(draft.budgets)):
        _shed(draft, device, weights)
    if any(not draft.fits(device) for device in range(len(draft.budgets))):
        repair(draft, who)


def _shed(draft: Draft, device: int, weights: Sequence[float]) -> None:
    """Move parts off a device that has no memory for them, shards first because they are the finest."""
    order = {"ffn": 0, "head": 1}
    held = [slot for slot, where in enumerate(draft.where) if where == device]
    held.sort(key=lambda slot: (order.get(draft.blocks[slot].kind, 2), -slot))
    for slot in held:
        if draft.fits(device):
            return
        able = [j for j in range(len(weights)) if j != device and weights[j] > 0 and draft.room_for(slot, j)]
        if able:
            draft.apply([(slot, min(able, key=lambda j: (draft.reserved_bytes[j] / weights[j], j)))])
