"""The neighbourhood of a draft: the groups of shifts that local search tries, in a fixed order.

A group moves single blocks, the heads of one device, a half of a layer, a whole layer or two in a row, or exchanges
two layers. Where the FFN is cut, a group also moves some or all of a device's shards, moves their sum, or deals the
shards anew over the fastest devices. Every generator reads the draft as it is when its next group is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat

from testbed.placement.local.draft import Draft, Shift
from testbed.placement.tree import align

SPLIT_FROM = 4  # blocks on one device from which half of them move as well; fewer are soon moved one by one


def neighbours(draft: Draft) -> Iterator[list[Shift]]:
    """Every group of shifts of one sweep."""
    for layer in range(draft.layers):
        yield from _of_layer(draft, layer)
    yield from _of_lm_head(draft)
    for first in range(draft.layers):
        for second in range(first + 1, draft.layers):
            yield from _exchanges(draft, first, second)


def _of_layer(draft: Draft, layer: int) -> Iterator[list[Shift]]:
    """The groups that begin in one layer."""
    slots = draft.slots
    if not slots.hub:
        yield from _of_layer_without_hub(draft, layer)
        return
    heads, middle, ffn = slots.heads(layer), slots.attention_target(layer), slots.ffn(layer)
    attention, whole = slots.attention(layer), slots.of_layer(layer)
    groups: list[Sequence[int]] = [(middle,), ffn, (middle, *ffn), heads, attention, whole]
    if layer + 1 < draft.layers:
        groups += [(*ffn, *slots.attention(layer + 1)), (*whole, *slots.of_layer(layer + 1))]
    shards = ffn[:-1]
    for target in draft.devices:
        for group in groups:
            yield _all_to(group, target)
        for source in draft.devices:
            yield from _some_of(draft, heads, source, target)
            yield from _some_of(draft, shards, source, target)
    if slots.shards(layer):
        yield from _of_sum(draft, layer)


def _of_layer_without_hub(draft: Draft, layer: int) -> Iterator[list[Shift]]:
    """The same where there are only heads and shards. In the first layer also all that one device has."""
    slots = draft.slots
    heads, shards, whole = slots.heads(layer), slots.shards(layer), slots.of_layer(layer)
    following = slots.of_layer(layer + 1) if layer + 1 < draft.layers else ()
    for target in draft.devices:
        for group in (heads, shards, whole, (*whole, *following)):
            yield _all_to(group, target)
        for source in draft.devices:
            yield from _some_of(draft, heads, source, target)
            yield from _some_of(draft, shards, source, target)
            if layer == 0:  # a device without any block takes part in no exchange
                yield [(slot, target) for slot in range(slots.vocab.start) if draft.where[slot] == source]
    yield from dealt_anew(draft, heads)
    yield from dealt_anew(draft, shards)


def _all_to(group: Sequence[int], target: int) -> list[Shift]:
    return list(zip(group, repeat(target)))


def _some_of(draft: Draft, group: Sequence[int], source: int, target: int) -> Iterator[list[Shift]]:
    """One, all or half of those blocks of a group that are on one device, to another device."""
    here = [slot for slot in group if draft.where[slot] == source]
    if here and source != target:
        yield [(here[-1], target)]
        if len(here) > 1:
            yield _all_to(here, target)
        if len(here) >= SPLIT_FROM:
            yield _all_to(here[len(here) // 2 :], target)


def _of_sum(draft: Draft, layer: int) -> Iterator[list[Shift]]:
    """The sum of an FFN, alone or with the attention's target, and the shards dealt anew with or without it."""
    slots = draft.slots
    middle, end = slots.attention_target(layer), slots.ffn_target(layer)
    for target in draft.devices:
        yield [(end, target)]
        yield [(middle, target), (end, target)]
    for dealt in dealt_anew(draft, slots.shards(layer)):
        yield dealt
        yield [*dealt, (end, draft.where[middle])]


def dealt_anew(draft: Draft, shards: range) -> Iterator[list[Shift]]:
    """Shards, or heads, dealt anew to the two fastest devices, to the three fastest, and so on."""
    speeds = draft.model.seconds(draft.blocks[shards[0]].kind, draft.model.lengths[0])
    fastest = sorted(draft.devices, key=lambda device: (speeds[device], device))
    for number in range(2, min(len(fastest), len(shards)) + 1):
        counts = [0] * len(speeds)
        for _ in shards:  # each to the device that would finish it first
            device = min(fastest[:number], key=lambda device: ((counts[device] + 1) * speeds[device], device))
            counts[device] += 1
        yield [(shards[leaf], device) for device, leaves in enumerate(align(counts)) for leaf in leaves]


def _of_lm_head(draft: Draft) -> Iterator[list[Shift]]:
    """The shards of the LM head: one, half or all of a device's to another device, or all dealt anew."""
    shards = draft.slots.vocab
    if not shards:
        return
    for target in draft.devices:
        yield _all_to(shards, target)
        for source in draft.devices:
            yield from _some_of(draft, shards, source, target)
    yield from dealt_anew(draft, shards)


def _exchanges(draft: Draft, first: int, second: int) -> Iterator[list[Shift]]:
    """Two layers exchange their devices: as wholes, their attention halves, or their FFNs."""
    slots, where = draft.slots, draft.where
    for part in (slots.of_layer, slots.attention, slots.ffn):
        one, two = part(first), part(second)
        there, here = where[two.start : two.stop], where[one.start : one.stop]
        yield [*zip(one, there, strict=True), *zip(two, here, strict=True)]
