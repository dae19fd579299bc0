"""Caches that are copied while tokens go on: rows arrive in order and whole, and no faster than was asked."""

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
from testbed.errors import RunFailed
from testbed.placement.blocks import Block, payload_bytes, wire_bytes
from testbed.transport.copying import StreamOrder, WeightsLoaded
from testbed.transport.data import Rows, RowsAck
from testbed.transport.messages import Arrived, Incoming, Prepare
from testbed.worker.row_receiver import RowReceiver
from testbed.worker.row_streams import RowStream, RowStreams, StreamNews

HEADS = [Block("head", 0, group) for group in range(3)]
LENGTH = 20
ROW_BYTES = 2 * SMALL.head_dim * 4


def store_with(seed: int, blocks: list[Block] = HEADS) -> BlockStore:
    """A store whose caches hold random numbers."""
    store, chance = BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions), np.random.default_rng(seed)
    for block in blocks:
        store.add(block)
        for part in store.cache(block).rows(0, SMALL.positions):
            part[:] = chance.bytes(len(part))
    return store


def order(chunk: int = 3 * ROW_BYTES, rate_Bps: float = 1e9, window: int = 1 << 20) -> StreamOrder:
    return StreamOrder("b", [str(block) for block in HEADS], rate_Bps, chunk, window)


class Receiving:
    """A receiver, and everything it says."""

    def __init__(self, shipped: bool = False) -> None:
        self.store = BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions)
        self.reports: list[Any] = []
        self.acks: list[RowsAck] = []
        self.notes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        incoming = [Incoming(str(block), "a", 1) for block in HEADS]
        command = Prepare(4, LENGTH, incoming, shipped, 1e12, until=SMALL.positions)
        self.receiver = RowReceiver(command, self.store, self, self.reports.append, self.notes.put, 1.0)  # type: ignore[arg-type]
        self.receiver.begin()

    def send(self, peer: str, header: Any, payload: bytes = b"", apart: bool = False) -> float:
        assert peer == "a"
        self.acks.append(msgspec.structs.replace(header, sender="b"))
        return 0.0


class Wire:
    """Stands for the sender's outbox; a test lets the pieces arrive."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[tuple[Rows, bytes]] = queue.SimpleQueue()

    def send(self, peer: str, header: Rows, payload: bytes, apart: bool) -> float:
        assert peer == "b" and apart
        self.sent.put((msgspec.structs.replace(header, sender="a"), payload))
        return 0.0


def same_rows(one: BlockStore, other: BlockStore, length: int) -> bool:
    return all(
        bytes(mine) == bytes(theirs)
        for block in HEADS
        for mine, theirs in zip(one.cache(block).rows(0, length), other.cache(block).rows(0, length), strict=True)
    )


def test_pieces_bring_every_row_once_and_several_heads_share_one() -> None:
    store, stream = store_with(1), RowStream(order(), store_with(1), shipped=False)
    rows = dict.fromkeys(HEADS, 0)
    for whole in (10, 11, 11, 13):
        while (piece := stream.following(whole, 3 * ROW_BYTES)) is not None:
            assert len(piece.payload) == piece.blocks * piece.rows * ROW_BYTES <= 3 * ROW_BYTES
            for block in HEADS[piece.first : piece.first + piece.blocks]:
                assert rows[block] == piece.start
                rows[block] += piece.rows
        assert set(rows.values()) == {whole}
    last = RowStream(order(), store, shipped=False)
    assert [last.following(1, 3 * ROW_BYTES).blocks, last.following(1, 3 * ROW_BYTES)] == [3, None]  # type: ignore[union-attr]


@pytest.mark.parametrize("shipped", [False, True])
def test_a_copy_that_runs_behind_tokens_ends_with_the_same_bits(shipped: bool) -> None:
    store, wire, taking = store_with(2), Wire(), Receiving(shipped)
    news: queue.SimpleQueue[StreamNews] = queue.SimpleQueue()
    rows = [10]
    streams = RowStreams(4, [RowStream(order(), store, shipped)], wire, lambda: rows[0], news.put)  # type: ignore[arg-type]
    streams.begin()
    deadline = time.monotonic() + 20

    def until(what: str) -> None:
        while time.monotonic() < deadline:
            while not wire.sent.empty():
                taking.receiver.accept(*wire.sent.get(), time.monotonic())
            while taking.acks:
                streams.acknowledge(taking.acks.pop(0))
            if not news.empty():
                assert news.get() == StreamNews(4, what)  # type: ignore[arg-type]
                return
            time.sleep(0.001)
        raise AssertionError(f"it has not {what}")

    until("caught up")
    for more in range(11, LENGTH):
        rows[0] = more
        streams.rows_came()
    if not shipped:
        for _ in HEADS:
            taking.receiver.weights_ready(taking.notes.get(timeout=5))
        assert taking.reports == [WeightsLoaded(4)]
    taking.receiver.finish(LENGTH)
    streams.finish(LENGTH)
    until("sent")
    *_, arrived = taking.reports
    assert isinstance(arrived, Arrived) and [arrival.block for arrival in arrived.arrivals] == list(map(str, HEADS))
    assert sum(arrival.payload_bytes for arrival in arrived.arrivals) == sum(
        payload_bytes(SMALL, block, LENGTH, shipped) for block in HEADS
    )
    assert same_rows(store, taking.store, LENGTH)
    if shipped:
        for block in HEADS:
            assert list(map(bytes, store.weight_parts(block))) == list(map(bytes, taking.store.weight_parts(block)))


def test_pieces_leave_no_faster_than_asked_and_no_more_than_the_window_is_on_its_way() -> None:
    chunk = 2 * ROW_BYTES
    rate = wire_bytes(chunk) / 0.01
    store, wire, news = store_with(3), Wire(), queue.SimpleQueue[StreamNews]()
    streams = RowStreams(4, [RowStream(order(chunk, rate, 4 * chunk), store, False)], wire, lambda: LENGTH, news.put)  # type: ignore[arg-type]
    began = time.monotonic()
    streams.begin()
    pieces = [wire.sent.get(timeout=5) for _ in range(4)]
    assert time.monotonic() - began > 2.4 * 0.01, "half a piece may leave early"
    with pytest.raises(queue.Empty):
        wire.sent.get(timeout=0.1)
    assert pieces[-1][0].answer, "a full window must be acknowledged"
    streams.acknowledge(RowsAck("b", 0.0, 0.0, 0.0, 4, pieces[-1][0].sequence))
    wire.sent.get(timeout=5)
    streams.close()
    assert news.empty()


def pieces_of(store: BlockStore) -> list[tuple[Rows, bytes]]:
    wire = Wire()
    news: queue.SimpleQueue[StreamNews] = queue.SimpleQueue()
    streams = RowStreams(4, [RowStream(order(), store, False)], wire, lambda: LENGTH, news.put)  # type: ignore[arg-type]
    streams.begin()
    found = [wire.sent.get(timeout=5) for _ in range(3)]
    streams.close()
    return found


@pytest.mark.parametrize("fault", ["damaged", "twice", "skipped"])
def test_a_piece_that_is_damaged_or_out_of_turn_is_refused(fault: str) -> None:
    taking, pieces = Receiving(), pieces_of(store_with(4))
    header, payload = pieces[0]
    if fault == "damaged":
        payload = bytes([payload[0] ^ 1]) + payload[1:]
    elif fault == "twice":
        taking.receiver.accept(header, payload, 0.0)
    else:
        header, payload = pieces[1]
    with pytest.raises(RunFailed, match="arrived damaged" if fault == "damaged" else "out of turn"):
        taking.receiver.accept(header, payload, 0.0)


def test_an_aborted_copy_leaves_nothing_behind() -> None:
    taking = Receiving()
    for header, payload in pieces_of(store_with(5)):
        taking.receiver.accept(header, payload, 0.0)
    assert taking.store.blocks == HEADS
    taking.receiver.forget()
    assert taking.store.blocks == []
