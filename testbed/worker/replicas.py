"""Replicas of KV caches: this device keeps those of other devices' heads, and others keep those of its own.

Replicas are kept as long as nothing else needs their memory. They count in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from testbed.decoder.store import BlockStore
from testbed.errors import RunFailed
from testbed.placement.blocks import Block, parse_block
from testbed.transport.copying import Keep, Kept, ReplicasDropped, Replicate
from testbed.transport.data import DataPlane, Rows, RowsAck
from testbed.transport.messages import Event
from testbed.worker.outbox import Outbox
from testbed.worker.row_intake import RowIntake
from testbed.worker.row_streams import RowStream, RowStreams, StreamNews


def stream_of(generation: int) -> int:
    """The number of a generation's streams. Those of migrations are the numbers of their epochs."""
    return -1 - generation


class Replicas:
    """The replicas that are kept here, and the streams to those who keep this device's."""

    def __init__(
        self,
        store: BlockStore,
        outbox: Outbox,
        plane: DataPlane,
        report: Callable[[Event], None],
        post: Callable[[StreamNews], None],
    ) -> None:
        self._store, self._outbox, self._plane = store, outbox, plane
        self._report, self._post = report, post
        self._intake: RowIntake | None = None
        self._streams: RowStreams | None = None
        self._rows: dict[str, int] = {}  # of replicas from former generations
        self._whole_rows = 0

    def keep(self, command: Keep, budget_bytes: int | None) -> None:
        """Keep these replicas and no others, as far as the budget goes."""
        self._rows = dict(self.held())
        wanted = {name for name, _ in command.incoming}
        for name in [name for name in self._rows if name not in wanted]:
            self._drop(name)
        self._intake = RowIntake(stream_of(command.generation), self._outbox, self._store.replica, lambda block: [])
        kept: list[tuple[str, int]] = []
        for name, owner in command.incoming:
            block = parse_block(name)
            if name not in self._rows:
                self._store.keep(block)
                if budget_bytes is not None and self._store.held_bytes(command.until) > budget_bytes:
                    self._store.drop_replica(block)
                    continue
                self._rows[name] = 0
            self._intake.announce(owner, block, self._rows[name])
            kept.append((name, self._rows[name]))
        self._report(Kept(command.generation, kept))

    def replicate(self, command: Replicate) -> None:
        """Copy this device's caches to those who keep replicas of them."""
        self.stop_sending()
        for order in command.streams:
            self._plane.connect_apart(order.receiver)
        streams = [RowStream(order, self._store, shipped=False) for order in command.streams]
        number = stream_of(command.generation)
        self._streams = RowStreams(number, streams, self._outbox, lambda: self._whole_rows, self._post)
        self._streams.begin()

    def take(self, header: Rows | RowsAck, payload: memoryview | bytes, due_s: float) -> None:
        """Take in a message of a stream. Those of former generations are dropped."""
        if isinstance(header, RowsAck):
            if self._streams is not None:
                self._streams.acknowledge(header)
        elif self._intake is not None and header.stream == self._intake.stream:
            self._intake.accept(header, payload, due_s)

    def rows_came(self, whole: int) -> None:
        """Note that all caches here have so many rows of tokens that are done."""
        self._whole_rows = whole
        if self._streams is not None:
            self._streams.rows_came()

    def streamed(self, news: StreamNews) -> None:
        """Raise RunFailed when the streams cannot go on."""
        if news.what == "failed" and self._streams is not None and news.stream == self._streams.stream:
            raise RunFailed(f"device {self._outbox.device} cannot copy its caches: {news.error}")

    def held(self) -> list[tuple[str, int]]:
        """The replicas that are here, each with its rows."""
        rows = {name: count for name, count in self._rows.items() if parse_block(name) in self._store.replicas}
        if self._intake is not None:
            for incoming in self._intake.senders.values():
                names = map(str, incoming.blocks)
                rows |= {name: count for name, count in zip(names, incoming.rows, strict=True) if name in rows}
        return list(rows.items())

    def give_way(self, names: Iterable[str]) -> None:
        """Take in no more if blocks arrive whose replicas are here, because these become their caches."""
        if any(parse_block(name) in self._store.replicas for name in names):
            self._stop_taking_in()

    def make_room(self, spared: Collection[Block] = ()) -> bool:
        """Drop all replicas but those of some blocks, because memory is needed; returns whether there were any."""
        dropped = [block for block in self._store.replicas if block not in spared]
        for block in dropped:
            self._store.drop_replica(block)
        if dropped:
            self.stop()
            self._report(ReplicasDropped())
        return bool(dropped)

    def stop(self) -> None:
        """Stop to send and to take in. What is here stays."""
        self._stop_taking_in()
        self.stop_sending()

    def _stop_taking_in(self) -> None:
        self._rows, self._intake = dict(self.held()), None

    def stop_sending(self) -> None:
        """Stop to send."""
        if self._streams is not None:
            self._streams.close()
            self._streams = None

    def _drop(self, name: str) -> None:
        self._store.drop_replica(parse_block(name))
        del self._rows[name]
