"""Sends KV caches to other devices in the background, while tokens go on and add rows to them.

A thread of its own sends small pieces at a bounded rate, on connections of its own, so that a token's message waits
for at most one of them. It alone knows what has been sent. The main thread tells it what has come, and is told when a
stream has caught up with the tokens and when it has ended.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from testbed.decoder.store import BlockStore
from testbed.placement.blocks import parse_block, wire_bytes
from testbed.transport.copying import StreamOrder
from testbed.transport.data import Rows, RowsAck
from testbed.worker.chunks import CHUNK_BYTES, WINDOW_BYTES, checksum
from testbed.worker.outbox import Outbox

ANSWERED_EACH = 4  # pieces to an acknowledgement, if there is more to send
_IDLE_S = 1.0
_MORE_ROWS = "more rows"


class Piece(NamedTuple):
    """What one message carries; see `transport.data.Rows`."""

    first: int
    blocks: int
    start: int
    rows: int
    payload: bytes


class RowStream:
    """What is to be sent to one receiver: weights if they are shipped, then each head's rows as there are more."""

    def __init__(self, order: StreamOrder, store: BlockStore, shipped: bool) -> None:
        self.order = order
        blocks = [parse_block(name) for name in order.blocks]
        self._caches = {number: store.cache(block) for number, block in enumerate(blocks) if block.kind == "head"}
        self._rows = {number: order.rows[number] if order.rows else 0 for number in self._caches}  # sent so far
        self._weights = self._cut([store.weight_parts(block) for block in blocks] if shipped else [])
        self._weights_sent = False
        self._unacknowledged: deque[tuple[int, int]] = deque()  # (sequence, bytes)
        self._sequence = 0
        self.in_flight = 0
        self.free_s = 0.0  # when the next piece may leave

    def _cut(self, parts_of: Sequence[Sequence[memoryview]]) -> Iterator[Piece]:
        for number, parts in enumerate(parts_of):
            offset = 0
            for part in parts:
                for start in range(0, len(part), self.order.chunk_bytes):
                    payload = bytes(part[start : start + self.order.chunk_bytes])
                    yield Piece(number, 0, offset + start, 0, payload)
                offset += len(part)

    def following(self, whole: int, most_bytes: int) -> Piece | None:
        """The next piece while caches have `whole` rows; None: there is none."""
        if not self._weights_sent:
            piece = next(self._weights, None)
            if piece is not None:
                return piece
            self._weights_sent = True
        if not self._rows:
            return None
        first = min(self._rows, key=lambda number: (self._rows[number], number))
        start, size = self._rows[first], 2 * self._caches[first].row_bytes
        count = min(whole - start, max(1, most_bytes // size))
        if count <= 0:
            return None
        parts, blocks = list[memoryview](), 0
        while self._rows.get(first + blocks) == start and (not blocks or (blocks + 1) * count * size <= most_bytes):
            parts += self._caches[first + blocks].rows(start, count)
            self._rows[first + blocks] = start + count
            blocks += 1
        return Piece(first, blocks, start, count, b"".join(parts))

    def has_more(self, whole: int) -> bool:
        """Whether a piece follows while caches have `whole` rows."""
        return not self._weights_sent or min(self._rows.values(), default=whole) < whole

    def sent(self, piece: Piece) -> int:
        """Note that a piece leaves; returns its number."""
        number, self._sequence = self._sequence, self._sequence + 1
        self._unacknowledged.append((number, len(piece.payload)))
        self.in_flight += len(piece.payload)
        return number

    def acknowledged(self, sequence: int) -> None:
        """Note that the receiver has all pieces up to this one."""
        while self._unacknowledged and self._unacknowledged[0][0] <= sequence:
            self.in_flight -= self._unacknowledged.popleft()[1]

    def behind(self, whole: int) -> int | None:
        """How many rows the receiver lacks of `whole`; None: pieces are on their way, or weights are missing."""
        if self.in_flight or not self._weights_sent:
            return None
        return max(0, whole - min(self._rows.values(), default=whole))


@dataclass(frozen=True)
class StreamNews:
    """What the thread posts: all streams have caught up with the tokens, or have ended, or cannot go on."""

    stream: int
    what: Literal["caught up", "sent", "failed"]
    error: str = ""


class RowStreams:
    """The streams of one number. Methods are for the main thread, and none of them waits."""

    def __init__(
        self,
        stream: int,
        streams: Sequence[RowStream],
        outbox: Outbox,
        whole_rows: Callable[[], int],
        post: Callable[[StreamNews], None],
    ) -> None:
        self.stream = stream
        self._streams = {stream.order.receiver: stream for stream in streams}
        self._outbox, self._whole_rows, self._post = outbox, whole_rows, post
        self._told: queue.SimpleQueue[RowsAck | int | str | None] = queue.SimpleQueue()
        self._length: int | None = None  # at which the streams end
        self._caught_up = False
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)

    def begin(self) -> None:
        """Begin to send."""
        self._thread.start()

    def acknowledge(self, ack: RowsAck) -> None:
        """A receiver has stored pieces."""
        if ack.stream == self.stream:
            self._told.put(ack)

    def rows_came(self) -> None:
        """Caches have more whole rows."""
        self._told.put(_MORE_ROWS)

    def finish(self, length: int) -> None:
        """Send what is missing of `length` rows as fast as the link allows, and end."""
        self._told.put(length)

    def close(self) -> None:
        """End at once."""
        self._told.put(None)

    def _run(self) -> None:
        try:
            while self._take(self._send_what_is_due()) and self._report():
                continue
        except Exception as error:
            self._post(StreamNews(self.stream, "failed", str(error)))

    def _take(self, timeout_s: float) -> bool:
        """Hear what the main thread tells within the timeout; returns whether to go on."""
        try:
            told = self._told.get(timeout=timeout_s)
        except queue.Empty:
            return True
        if told is None:
            return False
        if isinstance(told, int):
            self._length = told
        elif isinstance(told, RowsAck):
            self._streams[told.sender].acknowledged(told.sequence)
        return True

    def _report(self) -> bool:
        """Tell what has been reached; returns whether there is more to do."""
        whole = self._whole_rows() if self._length is None else self._length
        behind = [stream.behind(whole) for stream in self._streams.values()]
        if self._length is not None and not any(rows is None or rows for rows in behind):
            self._post(StreamNews(self.stream, "sent"))
            return False
        if not self._caught_up and all(rows is not None and rows <= 1 for rows in behind):
            self._caught_up = True
            self._post(StreamNews(self.stream, "caught up"))
        return True

    def _send_what_is_due(self) -> float:
        """Send the pieces that may leave now; returns how long to wait for the next one."""
        wait_s = _IDLE_S
        for receiver, stream in self._streams.items():
            ending = self._length is not None
            window = WINDOW_BYTES if ending else stream.order.window_bytes
            while stream.in_flight < window:
                now = time.monotonic()
                if not ending and stream.free_s > now:
                    wait_s = min(wait_s, stream.free_s - now)
                    break
                whole = self._length if self._length is not None else self._whole_rows()
                piece = stream.following(whole, CHUNK_BYTES if ending else stream.order.chunk_bytes)
                if piece is None:
                    break
                number = stream.sent(piece)
                last = stream.in_flight >= window or not stream.has_more(whole)
                header = Rows(
                    "", 0.0, 0.0, 0.0, self.stream, number, piece.first, piece.blocks, piece.start, piece.rows,
                    checksum(piece.payload), last or number % ANSWERED_EACH == 0,
                )  # fmt: skip
                self._outbox.send(receiver, header, piece.payload, apart=True)
                takes_s = wire_bytes(len(piece.payload)) / stream.order.rate_Bps
                # Half a piece makes up for late wake-ups.
                stream.free_s = max(now - takes_s / 2, stream.free_s) + takes_s
        return wait_s
