"""Replicas of caches on a worker: they follow the owner's rows, and give way to everything else."""

from __future__ import annotations

import queue
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from decoder_cases import SEED, SMALL

from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights
from testbed.placement.blocks import Block, replica_bytes, resident_bytes
from testbed.transport.copying import Keep, Kept, ReplicasDropped, Replicate, StreamOrder
from testbed.transport.data import Chunk, ChunkAck, Rows, RowsAck
from testbed.transport.messages import Incoming, Prepare, Prepared, Refused, Transfer
from testbed.worker.migrating import Migrating
from testbed.worker.replicas import Replicas

HEADS = [Block("head", 1, group) for group in range(2)]
NAMES = [str(head) for head in HEADS]
LONG = SMALL.positions


class Side:
    """One worker's replicas, what it sends and what it says."""

    def __init__(self, name: str, peer: str) -> None:
        self.name, self.peer = name, peer
        self.store = BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions)
        self.sent: queue.SimpleQueue[tuple[Any, bytes]] = queue.SimpleQueue()
        self.reports: list[Any] = []
        self.device = name
        self.replicas = Replicas(self.store, self, self, self.reports.append, lambda news: None)  # type: ignore[arg-type]
        self.migrating = Migrating(
            self.store, self, self, self.reports.append, lambda news: None, 1.0, self.replicas.make_room  # type: ignore[arg-type]
        )  # fmt: skip

    def connect_apart(self, peer: str) -> None:
        assert peer == self.peer

    def send(self, peer: str, header: Any, payload: bytes = b"", apart: bool = False) -> float:
        self.sent.put((msgspec.structs.replace(header, sender=self.name), payload))
        return 0.0


@pytest.fixture
def sides() -> tuple[Side, Side]:
    """An owner with two heads, and a holder."""
    owner, holder = Side("a", "b"), Side("b", "a")
    chance = np.random.default_rng(3)
    for head in HEADS:
        owner.store.add(head)
        for part in owner.store.cache(head).rows(0, LONG):
            part[:] = chance.bytes(len(part))
    return owner, holder


def keep(holder: Side, generation: int = 1, budget: int | None = None, names: list[str] = NAMES) -> Kept:
    holder.replicas.keep(Keep(generation, [(name, "a") for name in names], LONG), budget)
    kept = holder.reports.pop()
    assert isinstance(kept, Kept)
    return kept


def replicate(owner: Side, kept: Kept) -> None:
    order = StreamOrder(
        "b", [name for name, _ in kept.replicas], 1e9, 700, 1 << 20, tuple(rows for _, rows in kept.replicas)
    )
    owner.replicas.replicate(Replicate(kept.generation, [order]))


def carry(owner: Side, holder: Side, whole: int) -> None:
    """Let tokens and pieces come until the replicas have so many rows."""
    owner.replicas.rows_came(whole)
    deadline = time.monotonic() + 10
    while dict(holder.replicas.held()) != dict.fromkeys(NAMES, whole):
        assert time.monotonic() < deadline, holder.replicas.held()
        for one, other in ((owner, holder), (holder, owner)):
            while not one.sent.empty():
                header, payload = one.sent.get()
                assert isinstance(header, Rows | RowsAck)
                other.replicas.take(header, payload, 0.0)
        time.sleep(0.001)


def same(owner: Side, holder: Side, rows: int, of: str) -> bool:
    return all(
        list(map(bytes, owner.store.cache(head).rows(0, rows)))
        == list(map(bytes, getattr(holder.store, of)(head).rows(0, rows)))
        for head in HEADS
    )


def test_replicas_follow_the_owners_rows_and_become_the_caches_of_heads_that_arrive(sides: tuple[Side, Side]) -> None:
    owner, holder = sides
    kept = keep(holder)
    assert kept.replicas == [(name, 0) for name in NAMES]
    replicate(owner, kept)
    for whole in (9, 10, 12):
        carry(owner, holder, whole)
    assert same(owner, holder, 12, "replica")
    holder.replicas.stop()
    holder.store.reserve(HEADS[0])
    holder.store.reserve(HEADS[1])
    assert same(owner, holder, 12, "cache") and not holder.replicas.held()
    owner.replicas.stop()


def test_another_generation_goes_on_where_the_last_one_ended(sides: tuple[Side, Side]) -> None:
    owner, holder = sides
    replicate(owner, keep(holder))
    carry(owner, holder, 9)
    owner.replicas.stop_sending()
    kept = keep(holder, generation=2)
    assert kept.replicas == [(name, 9) for name in NAMES]
    replicate(owner, kept)
    carry(owner, holder, 11)
    assert same(owner, holder, 11, "replica")
    assert keep(holder, 3, names=NAMES[:1]).replicas == [(NAMES[0], 11)]
    assert list(holder.store.replicas) == HEADS[:1]
    owner.replicas.stop()


def test_replicas_count_in_the_ledger_and_those_without_memory_are_left_out(sides: tuple[Side, Side]) -> None:
    _, holder = sides
    size = replica_bytes(SMALL, LONG)
    assert keep(holder, budget=2 * size - 1).replicas == [(NAMES[0], 0)]
    assert holder.store.held_bytes(LONG) == size


def test_replicas_give_way_to_what_needs_their_memory_and_to_heads_that_arrive(sides: tuple[Side, Side]) -> None:
    owner, holder = sides
    replicate(owner, keep(holder))
    carry(owner, holder, 9)
    holder.replicas.give_way([NAMES[1]])
    owner.replicas.rows_came(15)
    late = owner.sent.get(timeout=5)
    holder.replicas.take(*late, 0.0)  # is dropped
    assert dict(holder.replicas.held()) == dict.fromkeys(NAMES, 9)
    assert holder.replicas.make_room() and not holder.store.replicas and holder.store.held_bytes(LONG) == 0
    assert holder.reports == [ReplicasDropped()]
    assert not holder.replicas.make_room()
    owner.replicas.stop()


def prepare(side: Side, sources: dict[str, str], budget: int | None = None, rows: int = 9) -> Any:
    """Have heads come to a device, with rows of their caches; returns the answer."""
    size = rows * 2 * SMALL.head_dim * SMALL.kv_bytes
    incoming = [Incoming(name, source, 0 if source == side.name else size) for name, source in sources.items()]
    side.replicas.give_way(sources)
    side.migrating.prepare(Prepare(5, 12, incoming, False, 1e9, rows=rows), budget)
    return next(report for report in side.reports if isinstance(report, Prepared | Refused))


def test_rows_of_a_replica_travel_to_a_device_that_is_to_have_the_head(sides: tuple[Side, Side]) -> None:
    owner, holder = sides
    replicate(owner, keep(holder))
    carry(owner, holder, 12)
    owner.replicas.stop()
    holder.replicas.stop()
    taker = Side("c", "b")
    assert isinstance(prepare(taker, dict.fromkeys(NAMES, "b")), Prepared)
    holder.migrating.transfer(Transfer(5, 9, [(name, "c") for name in NAMES], False))
    while not holder.sent.empty() or not taker.sent.empty():
        for one, other in ((holder, taker), (taker, holder)):
            while not one.sent.empty():
                header, payload = one.sent.get()
                assert isinstance(header, Chunk | ChunkAck)
                other.migrating.take(header, payload, 0.0)
    assert same(owner, taker, 9, "cache") and same(owner, holder, 12, "replica"), "the replica stays"
    taker.migrating.forget()


def test_replicas_that_become_caches_do_not_make_room_for_other_blocks(sides: tuple[Side, Side]) -> None:
    owner, holder = sides
    replicate(owner, keep(holder))
    carry(owner, holder, 9)
    owner.replicas.stop()
    both = 2 * replica_bytes(SMALL, 12)
    enough = both + resident_bytes(SMALL, HEADS[0], 12) - replica_bytes(SMALL, 12)
    assert isinstance(prepare(holder, {NAMES[0]: "b"}, enough - 1), Prepared)
    rows = [list(map(bytes, side.store.cache(HEADS[0]).rows(0, 9))) for side in sides]
    assert rows[0] == rows[1] and not holder.store.replicas, "the other replica has had to go"
    holder.migrating.forget()


def test_a_head_whose_replica_is_gone_is_refused_by_who_is_to_have_it_and_by_who_is_to_send_it() -> None:
    for refuse in (
        lambda side: side.migrating.prepare(Prepare(5, 12, [Incoming(NAMES[0], "b", 0)], False, 1e9, rows=9), None),
        lambda side: side.migrating.transfer(Transfer(5, 9, [(NAMES[0], "c")], False)),
    ):
        side = Side("b", "a")
        refuse(side)
        assert side.reports == [Refused(5, f"device b: the cache of {NAMES[0]} is not here any more")]
        assert not side.store.blocks
