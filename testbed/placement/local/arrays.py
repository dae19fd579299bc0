"""A draft as arrays: what the compiled local search works on. Blocks are slots and devices are indices, as in a draft.

Halves are numbered through all layers: 2·l is the attention of layer l, and 2·l + 1 is its FFN. In the rows of counts,
the LM head comes after them; in the terms, x's way home and then the LM head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from testbed.placement.array_types import Floats, Ints
from testbed.placement.blocks import ATTENTION, FFN
from testbed.placement.cost.kernel import scratch_for
from testbed.placement.cost.model import MIGRATION_HANDSHAKE_S
from testbed.placement.cost.tables import Tables, demands_of, link_costs, network_of, tables_of
from testbed.placement.latency import STALLED_RATE
from testbed.placement.local.draft import Draft

# Rows of `Layout.sizes`, in bytes: grown as far as memory is kept free for, now, and sent and loaded by a move.
GROWN, NOW, SENT, LOAD = range(4)
# Rows of `Working.held`: grown bytes, old and incoming bytes together, incoming blocks, bytes loaded from storage.
GROWN_BYTES, DOUBLE_BYTES, INCOMING, LOADED = range(4)
# Rows of `Working.group`: the shifts that are tried, the devices they come from, and blocks of one device.
SLOTS, DEVICES, BEFORE, HERE = range(4)
# Rows of `Working.change`: what a group adds to `held`, and whether a device receives a block.
RECEIVES = 3
# Rows of `Working.touched`: the terms that a group changes, and whether a term is among them.
TERMS, AMONG = range(2)


class Layout(NamedTuple):
    """What stays as it is in one search."""

    tables: Tables
    tokens: float
    handshake_s: float
    source: int
    placed: bool  # whether blocks are somewhere already
    layers: int
    heads: int  # of a layer
    shards: int  # of a layer; 0 where the FFN is whole
    roots: tuple[bool, bool]  # whether results of attention and FFN are counted by roots
    sizes: Ints  # (4, slots)
    budgets: Ints  # (devices,)
    old: Ints  # (slots,); empty where nothing is placed
    home_s: Floats  # (devices,): x's way home
    byte_s: Floats  # (directed links,): seconds per migrated byte
    load_s: Floats  # (devices,): seconds per byte from storage
    path_delay_s: Floats  # (devices, devices)
    dealt: Ints  # (deals, shards): a layer's shards dealt to the two fastest devices, to the three fastest, …
    dealt_vocab: Ints  # (deals, shards of the LM head)


class Working(NamedTuple):
    """Where every block would be, the sums that follow from it, and working space."""

    where: Ints  # (slots,)
    counts: Ints  # (2 * layers + 1, devices): heads, shards
    held: Ints  # (4, devices)
    carried: Ints  # (directed links,): bytes migrated over each
    terms: Floats  # (2, 2 * layers + 2): seconds of a token now, and before the group that is tried
    delays: Floats  # (2, layers + 1): the longest path of a layer's moves, and of the LM head's, now and before
    scratch: Floats
    sent: Ints  # (devices,): roots that each device sends
    group: Ints  # (4, slots)
    change: Ints  # (4, devices)
    touched: Ints  # (2, 2 * layers + 2)
    left: Ints  # (1,): groups that may still be tried


def layout_of(draft: Draft, dealt: Ints, dealt_vocab: Ints) -> Layout:
    """What stays as it is while a draft with a hub is improved."""
    model, slots, placed = draft.model, draft.slots, len(draft.old) > 0
    network = network_of(draft.observation)
    byte_s, path_delay_s = link_costs(model, network)
    partial = [placed and half.partial for half in model.halves]
    sent, loaded = zip(*draft.moved, strict=True)
    return Layout(
        tables=tables_of([(network, demands_of(model, by_roots=placed))]),
        tokens=float(model.tokens),
        handshake_s=MIGRATION_HANDSHAKE_S,
        source=model.source,
        placed=placed,
        layers=draft.layers,
        heads=slots.heads_per_layer,
        shards=slots.shards_per_layer,
        roots=(partial[ATTENTION], partial[FFN]),
        sizes=np.array([draft.reserved_sizes, draft.now_sizes, sent, loaded], np.int64),
        budgets=np.array(draft.budgets, np.int64),
        old=np.array(draft.old, np.int64),
        home_s=np.array([model.source_seconds(device, lm_head=False) for device in draft.devices]),
        byte_s=byte_s,
        load_s=np.array([1 / max(view.storage_Bps, STALLED_RATE) for view in draft.observation.devices]),
        path_delay_s=path_delay_s,
        dealt=dealt,
        dealt_vocab=dealt_vocab,
    )


def working_space(draft: Draft, layout: Layout, effort: int) -> Working:
    """Empty working space with every block in `where`, to be filled by the compiled search."""
    slots, devices = len(draft.blocks), len(draft.budgets)
    terms = 2 * draft.layers + 2
    held = np.zeros((4, devices), np.int64)
    held[GROWN_BYTES] = draft.pinned_bytes
    held[DOUBLE_BYTES] = draft.pinned_bytes
    np.add.at(held[DOUBLE_BYTES], layout.old, layout.sizes[NOW, : len(layout.old)])
    return Working(
        where=np.array(draft.where, np.int64),
        counts=np.zeros((2 * draft.layers + 1, devices), np.int64),
        held=held,
        carried=np.zeros(len(layout.byte_s), np.int64),
        terms=np.zeros((2, terms)),
        delays=np.zeros((2, draft.layers + 1)),
        scratch=scratch_for(layout.tables),
        sent=np.zeros(devices, np.int64),
        group=np.zeros((4, slots), np.int64),
        change=np.zeros((4, devices), np.int64),
        touched=np.zeros((2, terms), np.int64),
        left=np.array([effort], np.int64),
    )
