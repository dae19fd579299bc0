"""Both ends of a migration: payloads are cut exactly, windows hold, and nothing damaged is taken in."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from decoder_cases import SEED, SMALL, WIDE, Ones, anonymous_bytes, forward, stores_for
from hypothesis import given
from hypothesis import strategies as st
from planes import has_message, receive

from testbed.decoder.store import BlockStore
from testbed.decoder.weights import RandomWeights, Tensors
from testbed.errors import RunFailed
from testbed.placement.blocks import Block, blocks_of, parse_block, payload_bytes, weight_bytes
from testbed.transport.data import Chunk, ChunkAck, DataPlane
from testbed.transport.messages import Arrived, Incoming, Prepare, Sent, Transfer
from testbed.worker.chunks import CHUNK_BYTES, FIRST_CHUNK_BYTES, WINDOW_BYTES, checksum, cut
from testbed.worker.outbox import Outbox
from testbed.worker.transfers import Receiver, Sender, WeightsReady

LENGTH = 30


class Recorded:
    """Stands for the network: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, bytes]] = []

    def send(self, peer: str, header: Any, payload: memoryview | bytes = b"") -> float:
        self.sent.append((peer, header, bytes(payload)))
        return 0.0


# --- cutting -------------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=5), seed=st.integers(0, 99))
def test_chunks_cover_the_payload_exactly_and_the_first_is_one_segment(sizes: list[int], seed: int) -> None:
    parts = [memoryview(random.Random(seed + index).randbytes(size)) for index, size in enumerate(sizes)]
    whole = b"".join(bytes(part) for part in parts)
    found = bytearray()
    chunks = list(cut(parts))
    for offset, piece in chunks:
        assert offset == len(found)
        assert 0 < len(piece) <= CHUNK_BYTES
        found += piece
    assert bytes(found) == whole
    assert len(chunks[0][1]) <= FIRST_CHUNK_BYTES <= 1448 if whole else not chunks
    ends, end = {0}, 0
    for size in sizes:
        end += size
        ends.add(end)
    for offset, piece in chunks:
        assert not any(offset < edge < offset + len(piece) for edge in ends), "a chunk spans two parts"


# --- sending -------------------------------------------------------------------------------------------


def sending(outgoing: list[tuple[str, str]], epoch: int = 4) -> tuple[Sender, Recorded, list[Sent]]:
    store = BlockStore(WIDE, Ones(), WIDE.positions)
    for name, _ in outgoing:
        store.add(parse_block(name))
    outbox, reports = Recorded(), []
    return Sender(Transfer(epoch, LENGTH, outgoing, True), store, outbox, reports.append), outbox, reports  # type: ignore[arg-type]


def ack_of(sent: tuple[str, Chunk, bytes]) -> ChunkAck:
    peer, chunk, payload = sent
    return ChunkAck(peer, 0.0, 0.0, 0.0, chunk.epoch, chunk.block, chunk.sequence, len(payload))


@pytest.mark.parametrize("seed", range(3))
def test_never_more_than_the_window_and_one_chunk_is_in_flight_to_each_destination(seed: int) -> None:
    chance = random.Random(seed)
    outgoing = [("proj(0)", "b"), ("head(0,1)", "b"), ("ffn(0)", "c"), ("head(0,2)", "d")]
    sender, outbox, reports = sending(outgoing)
    sender.begin()
    in_flight: dict[str, list[tuple[str, Chunk, bytes]]] = defaultdict(list)
    seen, highest = 0, 0
    while True:
        for item in outbox.sent[seen:]:
            in_flight[item[0]].append(item)
        seen = len(outbox.sent)
        for waiting in in_flight.values():
            size = sum(len(payload) for _, _, payload in waiting)
            assert size < WINDOW_BYTES + CHUNK_BYTES
            highest = max(highest, size)
        ready = [peer for peer in in_flight if in_flight[peer]]
        if not ready:
            break
        assert not reports
        sender.acknowledge(ack_of(in_flight[chance.choice(ready)].pop(0)))
    assert highest > WINDOW_BYTES - CHUNK_BYTES, "the window was never used"
    assert reports == [Sent(4)]
    for name, peer in outgoing:
        size = sum(len(payload) for to, chunk, payload in outbox.sent if chunk.block == name and to == peer)
        assert size == payload_bytes(WIDE, parse_block(name), LENGTH, with_weights=True)


def test_one_destination_gets_its_blocks_one_after_another() -> None:
    sender, outbox, _ = sending([("head(0,1)", "b"), ("head(0,0)", "b")])
    sender.begin()
    done = 0
    while done < len(outbox.sent):
        sender.acknowledge(ack_of(outbox.sent[done]))
        done += 1
    order = [chunk.block for _, chunk, _ in outbox.sent]
    assert order == sorted(order, reverse=True)
    sequences = [chunk.sequence for _, chunk, _ in outbox.sent if chunk.block == "head(0,1)"]
    assert sequences == list(range(len(sequences)))


def test_a_late_acknowledgement_of_an_aborted_epoch_changes_nothing() -> None:
    sender, outbox, reports = sending([("ffn(0)", "b")], epoch=5)
    sender.begin()
    sent = len(outbox.sent)
    for stale in (
        ChunkAck("b", 0.0, 0.0, 0.0, 4, "ffn(0)", 0, WINDOW_BYTES),
        ChunkAck("z", 0.0, 0.0, 0.0, 4, "head(0,0)", 3, 1000),
    ):
        sender.acknowledge(stale)
    assert len(outbox.sent) == sent and not reports


# --- receiving -----------------------------------------------------------------------------------------


class Taking:
    """A receiver on a store of its own, and everything it says."""

    def __init__(self, names: list[str], shipped: bool = True, storage_Bps: float = 1e12, weights: Any = None) -> None:
        self.store = BlockStore(SMALL, weights or RandomWeights(SMALL, SEED), SMALL.positions)
        self.outbox, self.reports = Recorded(), list[Arrived]()
        self.notes: queue.SimpleQueue[WeightsReady] = queue.SimpleQueue()
        incoming = [Incoming(name, "a", payload_bytes(SMALL, parse_block(name), LENGTH, shipped)) for name in names]
        command = Prepare(4, LENGTH, incoming, shipped, storage_Bps)
        self.receiver = Receiver(command, self.store, self.outbox, self.reports.append, self.notes.put, 1.0)  # type: ignore[arg-type]
        self.receiver.begin()

    def accept(self, item: tuple[Chunk, bytes]) -> None:
        self.receiver.accept(*item, time.monotonic())


def chunks_of(name: str, shipped: bool = True) -> list[tuple[Chunk, bytes]]:
    store = BlockStore(SMALL, RandomWeights(SMALL, SEED), SMALL.positions)
    store.add(parse_block(name))
    outbox = Recorded()
    Sender(Transfer(4, LENGTH, [(name, "b")], shipped), store, outbox, lambda sent: None).begin()  # type: ignore[arg-type]
    return [(msgspec.structs.replace(chunk, sender="a"), payload) for _, chunk, payload in outbox.sent]


def test_a_whole_block_is_acknowledged_chunk_by_chunk_and_reported_once() -> None:
    taking, chunks = Taking(["proj(1)"]), chunks_of("proj(1)")
    for count, chunk in enumerate(chunks, 1):
        assert not taking.reports
        taking.accept(chunk)
        assert len(taking.outbox.sent) == count
    assert [(peer, ack.sequence, ack.size) for peer, ack, _ in taking.outbox.sent] == [
        ("a", chunk.sequence, len(payload)) for chunk, payload in chunks
    ]
    [arrived] = taking.reports
    [arrival] = arrived.arrivals
    assert (arrival.block, arrival.source, arrival.weights_bytes) == ("proj(1)", "a", 0)
    assert arrival.payload_bytes == sum(len(payload) for _, payload in chunks)
    assert arrival.start_s <= arrival.first_byte_s <= arrival.last_byte_s <= arrival.ready_s
    ones = np.ones((1, 32), np.float32)
    assert np.array_equal(
        taking.store.proj(1, ones, ones),
        stores_for(SMALL, dict.fromkeys(blocks_of(SMALL), "a"))["a"].proj(1, ones, ones),
    )


@pytest.mark.parametrize("at", [0, 1, -1])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_chunk_with_one_flipped_bit_is_refused_and_not_acknowledged(at: int, bit: int) -> None:
    chunks = chunks_of("ffn(0)")
    assert len(chunks) > 2
    at %= len(chunks)
    taking = Taking(["ffn(0)"])
    for chunk in chunks[:at]:
        taking.accept(chunk)
    header, payload = chunks[at]
    damaged = bytearray(payload)
    damaged[len(damaged) // 2] ^= 1 << bit
    with pytest.raises(RunFailed, match=rf"ffn\(0\): chunk {at} arrived damaged"):
        taking.accept((header, bytes(damaged)))
    assert len(taking.outbox.sent) == at and not taking.reports


@pytest.mark.parametrize("order", [[1], [0, 2], [0, 0], [0, 1, 0]])
def test_a_chunk_out_of_turn_is_refused(order: list[int]) -> None:
    taking, chunks = Taking(["ffn(0)"]), chunks_of("ffn(0)")
    for index in order[:-1]:
        taking.accept(chunks[index])
    with pytest.raises(RunFailed, match=r"ffn\(0\): chunk \d+ at byte \d+ is out of turn"):
        taking.accept(chunks[order[-1]])


def test_a_chunk_of_a_block_nobody_announced_is_refused() -> None:
    taking = Taking(["ffn(0)"])
    with pytest.raises(RunFailed, match=r"proj\(1\): .* out of turn"):
        taking.accept(chunks_of("proj(1)")[0])


def test_a_checksum_tells_any_single_byte() -> None:
    piece = bytes(range(256)) * 4
    for at in (0, 511, 1023):
        changed = bytearray(piece)
        changed[at] ^= 0x10
        assert checksum(bytes(changed)) != checksum(piece) == checksum(memoryview(piece))


def test_staged_weights_come_from_storage_at_its_pace_and_no_sooner() -> None:
    size = weight_bytes(SMALL, "proj")
    started = time.monotonic()  # before it begins
    taking = Taking(["proj(0)", "proj(1)"], shipped=False, storage_Bps=size / 0.06)
    for count in (1, 2):
        note = taking.notes.get(timeout=5)
        assert time.monotonic() - started > count * 0.06 - 0.005
        assert not taking.reports
        taking.receiver.weights_ready(note)
    [arrived] = taking.reports
    assert [(a.block, a.payload_bytes, a.weights_bytes) for a in arrived.arrivals] == [
        ("proj(0)", 0, size), ("proj(1)", 0, size)
    ]  # fmt: skip


def test_a_head_is_whole_only_with_its_cache_and_its_weights() -> None:
    for cache_first in (True, False):
        taking, chunks = Taking(["head(0,1)"], shipped=False), chunks_of("head(0,1)", shipped=False)
        note = taking.notes.get(timeout=5)
        steps = [lambda t=taking, c=chunks: [t.accept(item) for item in c], lambda t=taking, n=note: (
            t.receiver.weights_ready(n))]  # fmt: skip
        for step in steps if cache_first else steps[::-1]:
            assert not taking.reports
            step()
        assert len(taking.reports) == 1


def test_weights_that_cannot_be_read_are_reported_with_the_reason() -> None:
    class Broken:
        def fill(self, kind: str, layer: int, index: int, tensors: Tensors) -> None:
            raise OSError("the card was pulled out")

    taking = Taking(["proj(0)"], shipped=False, weights=Broken())
    with pytest.raises(RunFailed, match=r"proj\(0\): its weights could not be loaded: the card was pulled out"):
        taking.receiver.weights_ready(taking.notes.get(timeout=5))


def test_an_aborted_epoch_leaves_nothing_behind() -> None:
    store = BlockStore(WIDE, Ones(), WIDE.positions)
    kept = Block("proj", 0)
    store.add(kept)
    before, threads = anonymous_bytes(), threading.active_count()
    outbox = Recorded()
    notes: list[WeightsReady] = []
    incoming = [Incoming(f"ffn({layer})", "a", 0) for layer in range(3)]
    command = Prepare(4, 0, incoming, False, 1e6)
    receiver = Receiver(command, store, outbox, lambda arrived: None, notes.append, 1.0)  # type: ignore[arg-type]
    receiver.begin()
    assert len(store.blocks) == 4
    receiver.forget()
    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads, "still loading"  # one of another test may have ended meanwhile
    del receiver
    assert store.blocks == [kept] and not notes
    assert anonymous_bytes() - before < 4 * 2**20


# --- over sockets --------------------------------------------------------------------------------------


@pytest.fixture
def planes() -> Iterator[dict[str, DataPlane]]:
    made = {name: DataPlane("tcp://127.0.0.1:*") for name in "ab"}
    for name, plane in made.items():
        plane.know({other: made[other].address for other in made if other != name})
    yield made
    for plane in made.values():
        plane.close()


@pytest.mark.parametrize("shipped", [True, False])
def test_blocks_that_migrate_over_tcp_go_on_with_the_same_bits(planes: dict[str, DataPlane], shipped: bool) -> None:
    prompt = list(range(20, 20 + LENGTH))
    home = dict.fromkeys(blocks_of(SMALL), "a")
    stores, undisturbed = stores_for(SMALL, home), stores_for(SMALL, home)
    stores["b"] = BlockStore(SMALL, RandomWeights(SMALL, SEED if not shipped else 99), SMALL.positions)
    forward(stores, home, "a", prompt, 0)
    forward(undisturbed, home, "a", prompt, 0)
    moving = [Block("head", 0, 1), Block("head", 1, 3), *([Block("ffn", 1)] if shipped else [])]
    outgoing = [(str(block), "b") for block in moving]
    incoming = [Incoming(str(block), "a", payload_bytes(SMALL, block, LENGTH, shipped)) for block in moving]

    sent, arrived = list[Sent](), list[Arrived]()
    notes: queue.SimpleQueue[WeightsReady] = queue.SimpleQueue()
    command, outbox = Prepare(1, LENGTH, incoming, shipped, 1e9), Outbox("b", planes["b"])
    receiver = Receiver(command, stores["b"], outbox, arrived.append, notes.put, 1.0)
    sender = Sender(Transfer(1, LENGTH, outgoing, shipped), stores["a"], Outbox("a", planes["a"]), sent.append)
    receiver.begin()
    sender.begin()
    deadline = time.monotonic() + 20
    while not (sent and arrived) and time.monotonic() < deadline:
        while not notes.empty():
            receiver.weights_ready(notes.get())
        if has_message(planes["b"], 0.001):
            header, payload = receive(planes["b"])
            assert isinstance(header, Chunk) and header.sender == "a"
            receiver.accept(header, payload, time.monotonic())
        if has_message(planes["a"], 0.001):
            ack, _ = receive(planes["a"])
            assert isinstance(ack, ChunkAck)
            sender.acknowledge(ack)
    assert len(sent) == len(arrived) == 1
    assert {arrival.block for arrival in arrived[0].arrivals} == {str(block) for block in moving}

    moved = dict(home)
    for block in moving:
        stores["a"].drop(block)
        moved[block] = "b"
    for step in range(3):
        ids, position = [step + 1], LENGTH + step
        after = forward(stores, moved, "a", ids, position)
        assert np.array_equal(after, forward(undisturbed, home, "a", ids, position))
