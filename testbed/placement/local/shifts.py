"""A draft under local search, compiled: makes a group of shifts if it fits and pays, and keeps all figures up to date.

The figures are a second copy of those of `local.draft`, and tested to be the same.
"""

from __future__ import annotations

from testbed.placement.blocks import ATTENTION
from testbed.placement.cost.kernel import half_seconds
from testbed.placement.cost.machine_code import called, inlined
from testbed.placement.local.arrays import (
    AMONG,
    BEFORE,
    DEVICES,
    DOUBLE_BYTES,
    GROWN,
    GROWN_BYTES,
    INCOMING,
    LOAD,
    LOADED,
    NOW,
    RECEIVES,
    SENT,
    SLOTS,
    TERMS,
    Layout,
    Working,
)

LM_HEAD = 3  # the kind of half in the tables


@called
def begin(p: Layout, s: Working) -> float:
    """Fill the sums from `where`; returns what the draft costs."""
    for slot in range(len(s.where)):
        device = s.where[slot]
        s.where[slot] = -1
        _put(p, s, slot, device)
    for layer in range(p.layers + 1):
        _note_delay(p, s, layer)
    total = 0.0
    for term in range(s.terms.shape[1]):
        s.terms[0, term] = _term(p, s, term)
        total += s.terms[0, term]
    return _migration(p, s) + p.tokens * total


@called
def try_group(p: Layout, s: Working, count: int, cost: float, worthwhile_s: float) -> float:
    """Make the first `count` shifts of the group if they fit and lower the cost; returns what the draft costs then."""
    if s.left[0] == 0:
        return cost
    s.left[0] -= 1
    shifts = 0
    for number in range(count):
        slot, device = s.group[SLOTS, number], s.group[DEVICES, number]
        if s.where[slot] != device:
            s.group[SLOTS, shifts], s.group[DEVICES, shifts], s.group[BEFORE, shifts] = slot, device, s.where[slot]
            shifts += 1
    if shifts == 0 or not _would_fit(p, s, shifts):
        return cost
    terms = _touch(p, s, shifts)
    least = 0.0
    for term in range(s.terms.shape[1]):
        if s.touched[AMONG, term] == 0:
            least += s.terms[0, term]
    per_layer = per_layer_of(p)
    one, two = s.group[SLOTS, 0] // per_layer, s.group[SLOTS, shifts - 1] // per_layer
    one, two = min(one, p.layers), min(two, p.layers)
    value = p.tokens * least
    made = value < cost
    if made:
        for number in range(shifts):
            _put(p, s, s.group[SLOTS, number], s.group[DEVICES, number])
        if p.placed:
            s.delays[1, one], s.delays[1, two] = s.delays[0, one], s.delays[0, two]
            _note_delay(p, s, one)
            _note_delay(p, s, two)
            value += _migration(p, s)
        done = 0
        while done < terms and value < cost:
            term = s.touched[TERMS, done]
            s.terms[1, term] = s.terms[0, term]
            s.terms[0, term] = _term(p, s, term)
            value += p.tokens * s.terms[0, term]
            done += 1
        if done < terms or not value < cost - worthwhile_s:
            for number in range(done):
                s.terms[0, s.touched[TERMS, number]] = s.terms[1, s.touched[TERMS, number]]
            for number in range(shifts):
                _put(p, s, s.group[SLOTS, number], s.group[BEFORE, number])
            s.delays[0, one], s.delays[0, two] = s.delays[1, one], s.delays[1, two]
            made = False
    for number in range(terms):
        s.touched[AMONG, s.touched[TERMS, number]] = 0
    return value if made else cost


@inlined
def _would_fit(p: Layout, s: Working, shifts: int) -> bool:
    """Whether every receiving device can hold its blocks as they grow, and incoming ones beside its old ones."""
    for number in range(shifts):
        device = s.group[DEVICES, number]
        s.change[GROWN_BYTES, device] = s.change[DOUBLE_BYTES, device] = s.change[INCOMING, device] = 0
        s.change[RECEIVES, device] = 1
    for number in range(shifts):
        slot, device, before = s.group[SLOTS, number], s.group[DEVICES, number], s.group[BEFORE, number]
        leaves = s.change[RECEIVES, before] == 1
        s.change[GROWN_BYTES, device] += p.sizes[GROWN, slot]
        if leaves:
            s.change[GROWN_BYTES, before] -= p.sizes[GROWN, slot]
        if not p.placed:
            continue
        if device != p.old[slot]:
            s.change[DOUBLE_BYTES, device] += p.sizes[NOW, slot]
            s.change[INCOMING, device] += 1
        if leaves and before != p.old[slot]:
            s.change[DOUBLE_BYTES, before] -= p.sizes[NOW, slot]
            s.change[INCOMING, before] -= 1
    fits = True
    for number in range(shifts):
        device = s.group[DEVICES, number]
        s.change[RECEIVES, device] = 0
        if s.held[GROWN_BYTES, device] + s.change[GROWN_BYTES, device] > p.budgets[device]:
            fits = False
        incoming = p.placed and s.held[INCOMING, device] + s.change[INCOMING, device] > 0
        if incoming and s.held[DOUBLE_BYTES, device] + s.change[DOUBLE_BYTES, device] > p.budgets[device]:
            fits = False
    return fits


@inlined
def _touch(p: Layout, s: Working, shifts: int) -> int:
    """List the terms that the shifts change; returns how many there are."""
    per_layer, terms = per_layer_of(p), 0
    for number in range(shifts):
        layer, place = divmod(s.group[SLOTS, number], per_layer)
        first = 2 * layer + (place > p.heads)
        # Where a half ends, the next one begins: at the block after the heads, and at a layer's last one.
        last = first + (place == p.heads or place == per_layer - 1)
        if layer >= p.layers:
            first = last = 2 * p.layers + 1
        for term in range(first, last + 1):
            if s.touched[AMONG, term] == 0:
                s.touched[AMONG, term] = 1
                s.touched[TERMS, terms] = term
                terms += 1
    return terms


@inlined
def per_layer_of(p: Layout) -> int:
    """Blocks of a layer: heads, where their results meet, and the whole FFN or its shards and their sum."""
    return p.heads + 2 + p.shards


@called
def _put(p: Layout, s: Working, slot: int, device: int) -> None:
    """Put a block on a device, and keep memory and migration up to date."""
    layer, place = divmod(slot, per_layer_of(p))
    row = -1  # of the counts
    if layer >= p.layers:
        row = 2 * p.layers
    elif place < p.heads:
        row = 2 * layer
    elif p.heads < place <= p.heads + p.shards:
        row = 2 * layer + 1
    at, sign = s.where[slot], -1
    for _ in range(2):
        if at >= 0:
            s.held[GROWN_BYTES, at] += sign * p.sizes[GROWN, slot]
            if row >= 0:
                s.counts[row, at] += sign
            if p.placed and at != p.old[slot]:
                _account(p, s, slot, p.old[slot], at, sign)
        at, sign = device, 1
    s.where[slot] = device


@inlined
def _account(p: Layout, s: Working, slot: int, source: int, target: int, sign: int) -> None:
    """Add a block's migration to the loads of links and storage, or take it off again."""
    s.held[DOUBLE_BYTES, target] += sign * p.sizes[NOW, slot]
    s.held[INCOMING, target] += sign
    s.held[LOADED, target] += sign * p.sizes[LOAD, slot]
    sent = sign * p.sizes[SENT, slot]
    if p.tables.routed:
        first = p.tables.path_start[source, target]
        for step in range(first, first + p.tables.path_length[source, target]):
            s.carried[p.tables.path_hops[step]] += sent
    else:
        s.carried[source] += sent
        s.carried[len(p.budgets) + target] += sent


@inlined
def _note_delay(p: Layout, s: Working, layer: int) -> None:
    """The longest path among the moves of a layer, or after the last one of the LM head."""
    first = layer * per_layer_of(p)
    stop = first + per_layer_of(p) if layer < p.layers else len(s.where)
    longest = 0.0
    if p.placed:
        for slot in range(first, stop):
            if s.where[slot] != p.old[slot]:
                longest = max(longest, p.path_delay_s[p.old[slot], s.where[slot]])
    s.delays[0, layer] = longest


@inlined
def _migration(p: Layout, s: Working) -> float:
    """Seconds from prepare to commit of the blocks that would move."""
    moved, busiest, delay = 0, 0.0, 0.0
    for device in range(len(p.budgets)):
        moved += s.held[INCOMING, device]
        busiest = max(busiest, s.held[LOADED, device] * p.load_s[device])
    if moved == 0:
        return 0.0
    for link in range(len(p.byte_s)):
        busiest = max(busiest, s.carried[link] * p.byte_s[link])
    for layer in range(p.layers + 1):
        delay = max(delay, s.delays[0, layer])
    return busiest + delay + p.handshake_s


@called
def _term(p: Layout, s: Working, term: int) -> float:
    """Seconds of one half of one token; after the layers, of x's way home, then of a cut LM head."""
    per_layer = per_layer_of(p)
    if term > 2 * p.layers:
        if len(s.where) == p.layers * per_layer:
            return 0.0
        row = s.counts[2 * p.layers]
        return half_seconds(p.tables, 0, LM_HEAD, p.source, p.source, row, row, s.scratch)  # type: ignore[no-any-return]
    layer, kind = divmod(term, 2)
    first = layer * per_layer
    holder = s.where[first - 1] if layer else p.source
    if term == 2 * p.layers:
        return p.home_s[holder]  # type: ignore[no-any-return]
    target = s.where[first + p.heads]
    if kind != ATTENTION:
        holder, target = target, s.where[first + per_layer - 1]
    row = s.counts[term]
    if not p.roots[kind]:
        return half_seconds(p.tables, 0, kind, holder, target, row, row, s.scratch)  # type: ignore[no-any-return]
    if kind == ATTENTION:
        _count_roots(s, first, first + p.heads)
    else:
        _count_roots(s, first + p.heads + 1, first + p.heads + 1 + p.shards)
    return half_seconds(p.tables, 0, kind, holder, target, row, s.sent, s.scratch)  # type: ignore[no-any-return]


@inlined
def _count_roots(s: Working, first: int, stop: int) -> None:
    """How many complete subtrees the leaves of each device make up, as in `tree.roots_of_mask`."""
    s.sent[:] = 0
    leaves, leaf = stop - first, 0
    while leaf < leaves:
        device, size, whole = s.where[first + leaf], 1, True
        while whole and leaf % (2 * size) == 0 and leaf + 2 * size <= leaves:
            for other in range(leaf + size, leaf + 2 * size):
                if s.where[first + other] != device:
                    whole = False
            if whole:
                size *= 2
        s.sent[device] += 1
        leaf += size
