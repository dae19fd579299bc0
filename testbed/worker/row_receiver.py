"""Takes in KV caches that are copied while tokens go on.

Rows of each block arrive in order, and with shipped weights these before. Until the source halts, nobody knows how
many rows there will be. The budget is checked for the most that there can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import Block, parse_block, weight_bytes
from testbed.transport.copying import WeightsLoaded
from testbed.transport.data import Rows, RowsAck
from testbed.transport.messages import Arrival, Arrived, Prepare
from testbed.worker.chunks import checksum, write
from testbed.worker.loading import Loading, WeightsReady
from testbed.worker.outbox import Outbox


@dataclass
class _Stream:
    """What comes from one sender. Blocks have numbers in the order in which they were announced."""

    blocks: list[Block] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of each block
    weights: list[int] = field(default_factory=list)  # bytes of each block
    received_bytes: int = 0
    sequence: int = 0  # of the next piece
    first_byte_s: float = 0.0
    last_byte_s: float = 0.0


class RowReceiver:
    """Takes in the incoming blocks of one epoch, row by row."""

    def __init__(
        self,
        command: Prepare,
        store: BlockStore,
        outbox: Outbox,
        report: Callable[[WeightsLoaded | Arrived], None],
        post: Callable[[WeightsReady], None],
        dilation: float,
    ) -> None:
        self.epoch = command.epoch
        self._command, self._store, self._outbox = command, store, outbox
        self._report, self._post, self._dilation = report, post, dilation
        self._streams: dict[str, _Stream] = {}
        self._unloaded = {incoming.block for incoming in command.incoming if not command.shipped}
        self._loading: Loading | None = None
        self._length: int | None = None
        self._started_s = 0.0

    def begin(self) -> None:
        """Map memory for every incoming block, and start loading weights."""
        self._started_s = time.monotonic()
        for incoming in self._command.incoming:
            block = parse_block(incoming.block)
            self._store.reserve(block)
            if incoming.payload_bytes:
                stream = self._streams.setdefault(incoming.source, _Stream())
                stream.blocks.append(block)
                stream.rows.append(0)
                stream.weights.append(0)
        if not self._command.shipped:
            self._loading = Loading(self._command, self._store, self._post, self._dilation)

    def accept(self, rows: Rows, payload: memoryview | bytes, due_s: float) -> None:
        """Store one piece; raises RunFailed when it is not the expected one."""
        stream = self._streams.get(rows.sender)
        if stream is None or rows.sequence != stream.sequence or rows.first + rows.blocks > len(stream.blocks):
            raise RunFailed(f"piece {rows.sequence} of the blocks that {rows.sender} copies is out of turn")
        if checksum(payload) != rows.checksum:
            raise RunFailed(f"piece {rows.sequence} of the blocks that {rows.sender} copies arrived damaged (checksum)")
        if rows.blocks:
            self._store_rows(stream, rows, memoryview(payload))
        else:
            self._store_weights(stream, rows, payload)
        if not stream.sequence:
            stream.first_byte_s = due_s
        stream.last_byte_s = due_s
        stream.sequence += 1
        stream.received_bytes += len(payload)
        if rows.answer:
            self._outbox.send(rows.sender, RowsAck("", 0.0, 0.0, 0.0, self.epoch, rows.sequence))
        self._finish_if_whole()

    def _store_rows(self, stream: _Stream, rows: Rows, payload: memoryview) -> None:
        offset = 0
        for number in range(rows.first, rows.first + rows.blocks):
            if stream.rows[number] != rows.start:
                raise RunFailed(f"rows from {rows.start} on of {stream.blocks[number]} are out of turn")
            for part in self._store.cache(stream.blocks[number]).rows(rows.start, rows.rows):
                part[:] = payload[offset : offset + len(part)]
                offset += len(part)
            stream.rows[number] += rows.rows

    def _store_weights(self, stream: _Stream, rows: Rows, payload: memoryview | bytes) -> None:
        block = stream.blocks[rows.first]
        if stream.weights[rows.first] != rows.start:
            raise RunFailed(f"weights from byte {rows.start} on of {block} are out of turn")
        write(self._store.weight_parts(block), rows.start, payload)
        stream.weights[rows.first] += len(payload)

    def weights_ready(self, note: WeightsReady) -> None:
        """Note that a block's weights are loaded; raises RunFailed when they could not be."""
        if note.error:
            raise RunFailed(f"migration of {note.block}: its weights could not be loaded: {note.error}")
        self._unloaded.discard(note.block)
        self.finish_what_is_complete()

    def finish_what_is_complete(self) -> None:
        """Report when no more weights have to be loaded."""
        if not self._unloaded:
            self._report(WeightsLoaded(self.epoch))

    def finish(self, length: int) -> None:
        """Every cache will have `length` rows, and no more."""
        self._length = length
        self._finish_if_whole()

    def _finish_if_whole(self) -> None:
        if self._length is None or not all(map(self._whole, self._streams.values())):
            return
        now = time.monotonic()
        arrivals = []
        for incoming in self._command.incoming:
            stream = self._streams.get(incoming.source, _Stream(first_byte_s=now, last_byte_s=now))
            block = parse_block(incoming.block)
            own = sum(map(len, self._parts(block))) if block in stream.blocks else 0
            loaded = 0 if self._command.shipped else weight_bytes(self._store.shape, block.kind, self._store.partition)
            arrivals.append(
                Arrival(incoming.block, incoming.source, own, loaded, self._started_s, stream.first_byte_s,
                        stream.last_byte_s, now)
            )  # fmt: skip
        self._report(Arrived(self.epoch, arrivals))

    def _parts(self, block: Block) -> list[memoryview]:
        """What travels of a block in the end."""
        assert self._length is not None
        return self._store.payload(block, self._length, self._command.shipped)

    def _whole(self, stream: _Stream) -> bool:
        return stream.received_bytes == sum(len(part) for block in stream.blocks for part in self._parts(block))

    def forget(self) -> None:
        """Drop everything that this epoch brought."""
        if self._loading is not None:
            self._loading.cancel()
        for incoming in self._command.incoming:
            self._store.drop(parse_block(incoming.block))
