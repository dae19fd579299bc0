"""Has blocks arrive row by row while tokens go on.

Rows of each block arrive in order, and with shipped weights these before. Until the source halts, nobody knows how
many rows there will be. The budget is checked for the most that there can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import Block, parse_block, weight_bytes
from testbed.transport.copying import WeightsLoaded
from testbed.transport.data import Rows
from testbed.transport.messages import Arrival, Arrived, Prepare
from testbed.worker.loading import Loading, WeightsReady
from testbed.worker.outbox import Outbox
from testbed.worker.row_intake import Incoming, RowIntake


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
        self._command, self._store = command, store
        self._report, self._post, self._dilation = report, post, dilation
        self._intake = RowIntake(command.epoch, outbox, store.cache, store.weight_parts)
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
                self._intake.announce(incoming.source, block)
        if not self._command.shipped:
            self._loading = Loading(self._command, self._store, self._post, self._dilation)

    def accept(self, rows: Rows, payload: memoryview | bytes, due_s: float) -> None:
        """Store one piece; raises RunFailed when it is not the expected one."""
        self._intake.accept(rows, payload, due_s)
        self._finish_if_whole()

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
        if self._length is None or not all(map(self._whole, self._intake.senders.values())):
            return
        now = time.monotonic()
        arrivals = []
        for item in self._command.incoming:
            sender = self._intake.senders.get(item.source, Incoming(first_byte_s=now, last_byte_s=now))
            block = parse_block(item.block)
            own = sum(map(len, self._parts(block))) if block in sender.blocks else 0
            loaded = 0 if self._command.shipped else weight_bytes(self._store.shape, block.kind, self._store.partition)
            arrivals.append(
                Arrival(item.block, item.source, own, loaded, self._started_s, sender.first_byte_s,
                        sender.last_byte_s, now)
            )  # fmt: skip
        self._report(Arrived(self.epoch, arrivals))

    def _parts(self, block: Block) -> list[memoryview]:
        """What travels of a block in the end."""
        assert self._length is not None
        return self._store.payload(block, self._length, self._command.shipped)

    def _whole(self, sender: Incoming) -> bool:
        return sender.received_bytes == sum(len(part) for block in sender.blocks for part in self._parts(block))

    def forget(self) -> None:
        """Drop everything that this epoch brought."""
        if self._loading is not None:
            self._loading.cancel()
        for incoming in self._command.incoming:
            self._store.drop(parse_block(incoming.block))
