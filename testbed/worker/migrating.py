"""A worker's part in migrations: it has blocks arrive beside its own, sends blocks, and forgets what was aborted."""

from __future__ import annotations

from collections.abc import Callable, Collection

from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import Block, parse_block, replica_bytes, resident_bytes
from testbed.transport.copying import CaughtUp, Copy, Finish
from testbed.transport.data import Chunk, ChunkAck, DataPlane, Rows, RowsAck
from testbed.transport.messages import Abort, Aborted, Event, Prepare, Prepared, Refused, Sent, Transfer
from testbed.worker.loading import WeightsReady
from testbed.worker.outbox import Outbox
from testbed.worker.row_receiver import RowReceiver
from testbed.worker.row_streams import RowStream, RowStreams, StreamNews
from testbed.worker.transfers import Receiver, Sender


class Migrating:
    """The two ends of a migration on this device. `post` may be called by any thread; the rest is the main thread's.

    Blocks are moved while no token is generated (`Transfer`), or copied while tokens go on (`Copy`).
    """

    def __init__(
        self,
        store: BlockStore,
        outbox: Outbox,
        plane: DataPlane,
        report: Callable[[Event], None],
        post: Callable[[WeightsReady | StreamNews], None],
        dilation: float,
        make_room: Callable[[Collection[Block]], bool],
    ) -> None:
        self._make_room = make_room  # by what can be spared, these excepted
        self._store, self._outbox, self._plane = store, outbox, plane
        self._report, self._post, self._dilation = report, post, dilation
        self._sender: Sender | None = None
        self._streams: RowStreams | None = None
        self._receiver: Receiver | RowReceiver | None = None
        self._whole_rows = 0

    def prepare(self, command: Prepare, budget_bytes: int | None) -> None:
        """Have blocks arrive, if the budget holds them beside those that are here."""
        incoming = [parse_block(item.block) for item in command.incoming]
        own = command.adopted(self._outbox.device)
        gone = [name for name in own if parse_block(name) not in self._store.replicas]
        if gone:
            reason = f"device {self._outbox.device}: the cache of {gone[0]} is not here any more"
            self._report(Refused(command.epoch, reason))
            return
        length = command.length if command.until is None else command.until
        shape, partition = self._store.shape, self._store.partition

        def need() -> int:
            adopted = sum(block in self._store.replicas for block in incoming) * replica_bytes(shape, length)
            coming = sum(resident_bytes(shape, block, length, partition) for block in incoming)
            return self._store.held_bytes(length) + coming - adopted

        if budget_bytes is not None and need() > budget_bytes:
            self._make_room(incoming)
        if budget_bytes is not None and need() > budget_bytes:
            reason = (
                f"device {self._outbox.device} would need {need()} bytes for its blocks and the {len(incoming)} "
                f"incoming ones together, its budget is {budget_bytes}"
            )
            self._report(Refused(command.epoch, reason))
            return
        kind = Receiver if command.until is None else RowReceiver
        self._receiver = kind(command, self._store, self._outbox, self._report, self._post, self._dilation)
        self._receiver.begin()
        self._report(Prepared(command.epoch))
        self._receiver.finish_what_is_complete()

    def transfer(self, command: Transfer) -> None:
        """Send blocks."""
        self._sender = Sender(command, self._store, self._outbox, self._report)
        self._refusing(command.epoch, self._sender.begin)

    def copy(self, command: Copy) -> None:
        """Begin to copy blocks."""
        for order in command.streams:
            self._plane.connect_apart(order.receiver)
        streams = [RowStream(order, self._store, command.shipped) for order in command.streams]
        self._streams = RowStreams(command.epoch, streams, self._outbox, lambda: self._whole_rows, self._post)
        self._streams.begin()

    def rows_came(self, whole: int) -> None:
        """Note that all caches here have so many rows of tokens that are done."""
        self._whole_rows = whole
        if self._streams is not None:
            self._streams.rows_came()

    def finish(self, command: Finish) -> None:
        """Copy the last rows, or take them in."""
        if self._streams is not None and self._streams.stream == command.epoch:
            self._streams.finish(command.length)
        if isinstance(self._receiver, RowReceiver) and self._receiver.epoch == command.epoch:
            self._receiver.finish(command.length)

    def take(self, header: Chunk | ChunkAck | Rows | RowsAck, payload: memoryview | bytes, due_s: float) -> None:
        """Take in a message of a migration. Those of an aborted one are dropped."""
        match header:
            case ChunkAck():
                sender = self._sender
                if sender is not None:
                    self._refusing(header.epoch, lambda: sender.acknowledge(header))
            case RowsAck():
                if self._streams is not None:
                    self._streams.acknowledge(header)
            case Chunk():
                receiver = self._receiver
                if isinstance(receiver, Receiver) and header.epoch == receiver.epoch:
                    self._refusing(header.epoch, lambda: receiver.accept(header, payload, due_s))
            case Rows():
                taking = self._receiver
                if isinstance(taking, RowReceiver) and header.stream == taking.epoch:
                    self._refusing(header.stream, lambda: taking.accept(header, payload, due_s))

    def weights_ready(self, note: WeightsReady) -> None:
        """Take note of loaded weights."""
        receiver = self._receiver
        if receiver is not None and note.epoch == receiver.epoch:
            self._refusing(note.epoch, lambda: receiver.weights_ready(note))

    def streamed(self, news: StreamNews) -> None:
        """Report what the streams have reached."""
        if self._streams is None or news.stream != self._streams.stream:
            return
        if news.what == "failed":
            raise RunFailed(f"device {self._outbox.device} cannot copy its blocks: {news.error}")
        self._report(CaughtUp(news.stream) if news.what == "caught up" else Sent(news.stream))

    def _refusing(self, epoch: int, accept: Callable[[], None]) -> None:
        try:
            accept()
        except RunFailed as error:
            self._report(Refused(epoch, f"device {self._outbox.device}: {error}"))

    def abort(self, command: Abort) -> None:
        """Forget an epoch."""
        self.forget()
        self._report(Aborted(command.epoch))

    def commit(self) -> None:
        """Keep what has arrived."""
        self._sender = self._streams = self._receiver = None

    def forget(self) -> None:
        """Stop to send, and drop what has arrived."""
        if self._streams is not None:
            self._streams.close()
        if self._receiver is not None:
            self._receiver.forget()
        self.commit()
