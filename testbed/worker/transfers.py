"""Both ends of a migration on a worker: one sends blocks in chunks, the other takes them in.

A block's payload (weights if they are shipped, then keys, then values) travels in numbered chunks with checksums. At
most `WINDOW_BYTES` of them are unacknowledged, so memory in flight is bounded. The first chunk is one segment, so the
receiver can time the payload from its first byte. Weights that are not shipped are read from the device's own
storage, at its rate, while the payload travels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import Block, parse_block, weight_bytes
from testbed.transport.data import Chunk, ChunkAck
from testbed.transport.messages import Arrival, Arrived, Prepare, Sent, Transfer
from testbed.worker.chunks import WINDOW_BYTES, checksum, cut, write
from testbed.worker.loading import Loading, WeightsReady
from testbed.worker.outbox import Outbox


class Sender:
    """Sends the outgoing blocks of one epoch, one after another per destination."""

    def __init__(self, command: Transfer, store: BlockStore, outbox: Outbox, report: Callable[[Sent], None]) -> None:
        self._command, self._store, self._outbox, self._report = command, store, outbox, report
        self._queues: dict[str, deque[str]] = {}
        for block, destination in command.outgoing:
            self._queues.setdefault(destination, deque()).append(block)
        self._streams = {destination: self._stream(destination) for destination in self._queues}
        self._in_flight = dict.fromkeys(self._queues, 0)
        self._unacknowledged = 0
        self._open = set(self._queues)

    def begin(self) -> None:
        """Send as much as the window allows."""
        for destination in list(self._open):
            self._push(destination)
        self._report_if_done()

    def acknowledge(self, ack: ChunkAck) -> None:
        """A receiver has stored a chunk, so the next may leave. An acknowledgement of an aborted epoch is ignored."""
        if ack.epoch != self._command.epoch:
            return
        self._in_flight[ack.sender] -= ack.size
        self._unacknowledged -= 1
        self._push(ack.sender)
        self._report_if_done()

    def _report_if_done(self) -> None:
        if not self._open and not self._unacknowledged:
            self._report(Sent(self._command.epoch))

    def _push(self, destination: str) -> None:
        while destination in self._open and self._in_flight[destination] < WINDOW_BYTES:
            following = next(self._streams[destination], None)
            if following is None:
                self._open.discard(destination)
                return
            header, piece = following
            self._in_flight[destination] += len(piece)
            self._unacknowledged += 1
            self._outbox.send(destination, header, piece)

    def _stream(self, destination: str) -> Iterator[tuple[Chunk, memoryview]]:
        for name in self._queues[destination]:
            parts = self._store.payload(parse_block(name), self._command.length, self._command.shipped)
            for sequence, (offset, piece) in enumerate(cut(parts)):
                yield Chunk("", 0.0, 0.0, 0.0, self._command.epoch, name, sequence, offset, checksum(piece)), piece


@dataclass
class _Taking:
    """One incoming block."""

    block: Block
    source: str
    expected_bytes: int
    parts: list[memoryview]
    start_s: float
    received_bytes: int = 0
    next_sequence: int = 0
    first_byte_s: float = 0.0
    last_byte_s: float = 0.0
    weights_ready: bool = False


class Receiver:
    """Takes in the incoming blocks of one epoch."""

    def __init__(
        self,
        command: Prepare,
        store: BlockStore,
        outbox: Outbox,
        report: Callable[[Arrived], None],
        post: Callable[[WeightsReady], None],
        dilation: float,
    ) -> None:
        self.epoch = command.epoch
        self._command, self._store, self._outbox = command, store, outbox
        self._report, self._post, self._dilation = report, post, dilation
        self._taking: dict[str, _Taking] = {}
        self._arrivals: list[Arrival] = []
        self._loading: Loading | None = None

    def begin(self) -> None:
        """Map memory for every incoming block, and start loading weights."""
        now = time.monotonic()
        for incoming in self._command.incoming:
            block = parse_block(incoming.block)
            self._store.reserve(block)
            length = self._command.length if self._command.rows is None else self._command.rows
            parts = self._store.payload(block, length, self._command.shipped)
            self._taking[incoming.block] = _Taking(
                block, incoming.source, incoming.payload_bytes, parts, now, first_byte_s=now, last_byte_s=now,
                weights_ready=self._command.shipped,
            )  # fmt: skip
        if not self._command.shipped:
            self._loading = Loading(self._command, self._store, self._post, self._dilation)

    def accept(self, chunk: Chunk, payload: memoryview | bytes, due_s: float) -> None:
        """Store one chunk and acknowledge it; raises RunFailed when it is not the expected one."""
        taking = self._taking.get(chunk.block)
        if taking is None or chunk.sequence != taking.next_sequence or chunk.offset != taking.received_bytes:
            raise RunFailed(f"migration of {chunk.block}: chunk {chunk.sequence} at byte {chunk.offset} is out of turn")
        if checksum(payload) != chunk.checksum:
            raise RunFailed(f"migration of {chunk.block}: chunk {chunk.sequence} arrived damaged (checksum)")
        write(taking.parts, chunk.offset, payload)
        if chunk.sequence == 0:
            taking.first_byte_s = due_s
        taking.last_byte_s = due_s
        taking.next_sequence += 1
        taking.received_bytes += len(payload)
        ack = ChunkAck("", 0.0, 0.0, 0.0, chunk.epoch, chunk.block, chunk.sequence, len(payload))
        self._outbox.send(chunk.sender, ack)
        self.finish_what_is_complete()

    def weights_ready(self, note: WeightsReady) -> None:
        """Note that a block's weights are loaded; raises RunFailed when they could not be."""
        if note.error:
            raise RunFailed(f"migration of {note.block}: its weights could not be loaded: {note.error}")
        self._taking[note.block].weights_ready = True
        self.finish_what_is_complete()

    def finish_what_is_complete(self) -> None:
        """Report when every block is complete."""
        for name, taking in list(self._taking.items()):
            if taking.weights_ready and taking.received_bytes == taking.expected_bytes:
                store, kind = self._store, taking.block.kind
                loaded = 0 if self._command.shipped else weight_bytes(store.shape, kind, store.partition)
                self._arrivals.append(
                    Arrival(name, taking.source, taking.expected_bytes, loaded, taking.start_s,
                            taking.first_byte_s, taking.last_byte_s, time.monotonic())
                )  # fmt: skip
                taking.parts.clear()
                del self._taking[name]
        if not self._taking:
            self._report(Arrived(self.epoch, self._arrivals))

    def forget(self) -> None:
        """Drop everything that this epoch brought."""
        if self._loading is not None:
            self._loading.cancel()
        self._taking.clear()
        for incoming in self._command.incoming:
            self._store.drop(parse_block(incoming.block))
