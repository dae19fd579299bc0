"""Splitting every layer over the devices in proportion to weights: what tensor-parallel policies have in common."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.placement.local.draft import UNPLACED, Draft
from testbed.placement.local.repair import repair


def apportion(total: int, weights: Sequence[float], first: int = 0) -> list[int]:
    """Divide `total` things in proportion to `weights`, by largest remainder.

    Equal remainders are served in the order of indices, beginning at `first` and going round.
    """
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
    """Fill an empty draft: heads and shards in proportion to `weights`, all else of layer l on device `hubs[l]`.

    A device without memory for its part gives blocks away, from the last layer on, each to the device where it fits
    that is then least loaded for its weight. A hub's own blocks leave last. If that is not enough, the draft is
    repaired. Raises Infeasible.
    """
    first_heads = first_shards = 0  # who gets a block more than others goes round from layer to layer
    for layer in range(draft.layers):
        heads, shards = draft.heads(layer), draft.shards(layer)
        _deal(draft, heads, weights, first_heads)
        _deal(draft, shards, weights, first_shards)
        first_heads += len(heads) % len(weights)
        first_shards += len(shards) % len(weights)
        for slot in draft.slots.of_layer(layer):
            if draft.where[slot] == UNPLACED:
                draft.place(slot, hubs[layer])
    _deal(draft, draft.slots.vocab, weights, 0)
    draft.refresh()
    for device in draft.devices:
        _shed(draft, device, weights)
    if any(not draft.fits(device) for device in draft.devices):
        repair(draft, who)


def _deal(draft: Draft, group: range, weights: Sequence[float], first: int) -> None:
    """Place a group's blocks in runs, in proportion to the weights."""
    receivers = [device for device, share in enumerate(apportion(len(group), weights, first)) for _ in range(share)]
    for slot, device in zip(group, receivers, strict=True):
        draft.place(slot, device)


def _shed(draft: Draft, device: int, weights: Sequence[float]) -> None:
    """Move blocks off a device that has no memory for them, FFN blocks first because shards are the finest."""
    order = {"ffn": 0, "head": 1}
    held = [slot for slot, where in enumerate(draft.where) if where == device]
    held.sort(key=lambda slot: (order.get(draft.blocks[slot].kind, 2), -slot))
    for slot in held:
        if draft.fits(device):
            return
        able = [j for j in range(len(weights)) if j != device and weights[j] > 0 and draft.room_for(slot, j)]
        if able:
            draft.apply([(slot, min(able, key=lambda j: (draft.reserved_bytes[j] / weights[j], j)))])
