"""Takes in rows of KV caches that others copy to this device; who announced them decides what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.decoder.memory import KvCache
from testbed.errors import RunFailed
from testbed.placement.blocks import Block
from testbed.transport.data import Rows, RowsAck
from testbed.worker.chunks import checksum, write
from testbed.worker.outbox import Outbox


@dataclass
class Incoming:
    """What comes from one sender. Blocks have numbers in the order in which they were announced."""

    blocks: list[Block] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of each block
    weights: list[int] = field(default_factory=list)  # bytes of each block
    received_bytes: int = 0
    sequence: int = 0  # of the next piece
    first_byte_s: float = 0.0
    last_byte_s: float = 0.0


class RowIntake:
    """Stores the pieces of one stream number, from all its senders.

    `cache_of` and `weights_of` say where a block's rows and weights belong.
    """

    def __init__(
        self,
        stream: int,
        outbox: Outbox,
        cache_of: Callable[[Block], KvCache],
        weights_of: Callable[[Block], list[memoryview]],
    ) -> None:
        self.stream = stream
        self._outbox, self._cache_of, self._weights_of = outbox, cache_of, weights_of
        self.senders: dict[str, Incoming] = {}

    def announce(self, sender: str, block: Block, rows: int = 0) -> None:
        """A sender will send what follows the first rows of a block."""
        incoming = self.senders.setdefault(sender, Incoming())
        incoming.blocks.append(block)
        incoming.rows.append(rows)
        incoming.weights.append(0)

    def accept(self, rows: Rows, payload: memoryview | bytes, due_s: float) -> None:
        """Store one piece; raises RunFailed when it is not the expected one."""
        incoming, what = self.senders.get(rows.sender), f"piece {rows.sequence} of what {rows.sender} copies"
        if incoming is None or rows.sequence != incoming.sequence or rows.first + rows.blocks > len(incoming.blocks):
            raise RunFailed(f"{what} is out of turn")
        if checksum(payload) != rows.checksum:
            raise RunFailed(f"{what} arrived damaged (checksum)")
        if rows.blocks:
            self._store_rows(incoming, rows, memoryview(payload))
        else:
            self._store_weights(incoming, rows, payload)
        if not incoming.sequence:
            incoming.first_byte_s = due_s
        incoming.last_byte_s = due_s
        incoming.sequence += 1
        incoming.received_bytes += len(payload)
        if rows.answer:
            self._outbox.send(rows.sender, RowsAck("", 0.0, 0.0, 0.0, self.stream, rows.sequence))

    def _store_rows(self, incoming: Incoming, rows: Rows, payload: memoryview) -> None:
        offset = 0
        for number in range(rows.first, rows.first + rows.blocks):
            block = incoming.blocks[number]
            if incoming.rows[number] != rows.start:
                raise RunFailed(f"rows from {rows.start} on of {block} are out of turn")
            for part in self._cache_of(block).rows(rows.start, rows.rows):
                part[:] = payload[offset : offset + len(part)]
                offset += len(part)
            incoming.rows[number] += rows.rows

    def _store_weights(self, incoming: Incoming, rows: Rows, payload: memoryview | bytes) -> None:
        block = incoming.blocks[rows.first]
        if incoming.weights[rows.first] != rows.start:
            raise RunFailed(f"weights from byte {rows.start} on of {block} are out of turn")
        write(self._weights_of(block), rows.start, payload)
        incoming.weights[rows.first] += len(payload)
