"""The data plane: a message is one header and at most one raw buffer, and goes from device to device in one frame.

A device binds one PULL socket and connects one PUSH socket to each peer it sends to, and a second one for what it
copies in the background. Messages keep their order on each connection. They speak ZeroMQ's protocol, but no thread of
libzmq's stands between a worker and the kernel (ADR 23). On the emulated network they are TCP sockets, where anyone can
connect: a peer that does not begin with the run's secret is refused before any frame of its is read. Where no network
is emulated it is a Unix socket in the run's folder, which only its user can enter.
"""

from __future__ import annotations

import operator
import struct
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from testbed.errors import RunFailed
from testbed.transport.receiving import NO_MESSAGE, Entrance
from testbed.transport.sending import Link, Links
from testbed.transport.zmtp import frame_head, opening

DATA_PORT = 5555
LINGER_S = 0.5
_LENGTH = struct.Struct(">H")  # of the header, which comes before the payload


class Header(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all data messages. Times are wall (monotonic) seconds, which all processes of one host share."""

    sender: str
    sent_s: float
    departs_s: float  # in the local fleet: when the first and the last byte left the emulated uplink
    departed_s: float


class Activation(Header, frozen=True):
    """Rows that one device sends another for one pass.

    `kind` is `x` or `y` (what an attention or an FFN half begins with), `o` or `p` (what heads or FFN shards send
    to where results meet), `v` or `c` (what goes to the shards of an LM head, and what comes back).
    """

    epoch: int
    step: int
    layer: int
    kind: str
    position: int
    rows: int
    compute_s: float  # both accumulated along the critical path that led here
    transfer_s: float


class Chunk(Header, frozen=True):
    """A piece of a migrating block's payload."""

    epoch: int
    block: str
    sequence: int
    offset: int
    checksum: int


class ChunkAck(Header, frozen=True):
    """The receiver has checked and stored the piece."""

    epoch: int
    block: str
    sequence: int
    size: int


class Rows(Header, frozen=True):
    """Rows of KV caches that are copied while tokens go on.

    Blocks are numbered in the order of their stream. `blocks` of them from `first` on have `rows` rows each in the
    payload, from row `start` on: a block's keys, then its values. With `blocks` 0 the payload is part of the weights of
    `first`, from byte `start` on.
    """

    stream: int
    sequence: int
    first: int
    blocks: int
    start: int
    rows: int
    checksum: int
    answer: bool  # whether the receiver is to acknowledge all pieces so far


class RowsAck(Header, frozen=True):
    """The receiver has checked and stored all pieces of the stream up to this one."""

    stream: int
    sequence: int


class ProbeFrame(Header, frozen=True):
    """One frame of a rate probe; `left` frames follow."""

    left: int


class PingFrame(Header, frozen=True):
    """A message to be bounced; `back` is True on its way back."""

    count: int
    back: bool


DataHeader = Activation | Chunk | ChunkAck | Rows | RowsAck | ProbeFrame | PingFrame
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DataHeader).decode


class Received(NamedTuple):
    """A message, and when it arrived (monotonic seconds)."""

    header: DataHeader
    payload: memoryview
    received_s: float


class DataPlane:
    """A device's sockets for data. It belongs to one thread, but for two methods.

    `ring` ends a `take` that waits, and `send_apart` is for the one thread that copies in the background.

    `secret` is the run's; it is None where only the run can reach the address. A frame of more than `most_bytes` ends
    the connection that it comes by.
    """

    def __init__(self, address: str, secret: bytes | None = None, most_bytes: int | None = None) -> None:
        self._entrance = Entrance(address, secret, most_bytes)
        self._links = Links(opening(secret))
        self._addresses: dict[str, str] = {}
        self._apart: dict[str, Link] = {}
        self._looked_s = 0.0  # all that arrived before has been taken
        self.address = self._entrance.address
        self.sending_thread = self._links.thread
        self.ring = self._entrance.ring
        self.strangers = self._entrance.strangers

    def know(self, peers: Mapping[str, str]) -> None:
        """Learn the peers' addresses. Each peer is connected when it is first needed. Others stay known."""
        self._addresses |= peers

    def connect(self, peers: Iterable[str]) -> None:
        """Connect to these peers now, so that their first message does not wait for it."""
        for peer in peers:
            self._link(peer)

    def _link(self, peer: str) -> Link:
        address = self._addresses.get(peer)
        if address is None:
            raise RunFailed(f"a message for device {peer!r} has no connection")
        return self._links.to(address)

    def connect_apart(self, peer: str) -> None:
        """Connect to a peer once more, for `send_apart`. A peer without an address is lost, and gets nothing."""
        address = self._addresses.get(peer)
        if address is not None:
            self._apart[peer] = self._links.to(address, apart=True)

    def send(self, peer: str, header: DataHeader, payload: memoryview | bytes = b"") -> None:
        """Send one message without waiting; raises RunFailed for a peer without an address."""
        self._links.send(self._link(peer), _framed(header, payload))

    def send_apart(self, peer: str, header: DataHeader, payload: memoryview | bytes) -> None:
        """Send one message by the connection of `connect_apart`, so that it never waits before one of `send`."""
        link = self._apart.get(peer)
        if link is not None:
            self._links.send(link, _framed(header, payload))

    def take(self, timeout_s: float | None) -> list[Received]:
        """The messages that are here, in the order of their arrival; if there are none, wait for some.

        The wait ends with any news, also with a ring, and after the timeout (None: never). Raises RunFailed for what is
        no message of the data plane. A message that came while nobody looked has the time at which it came: by the
        kernel's note, and by the sender's clock where the kernel joined several messages of a sender. On a Unix socket
        a message is there as soon as it is sent.
        """
        frames = self._entrance.take(timeout_s)
        looked_s, self._looked_s = self._looked_s, time.monotonic()
        found: list[Received] = []
        following: dict[int, tuple[float, float]] = {}  # connection -> when its following message arrived, and was sent
        for data, received_s, peer in reversed(frames):
            header, payload = _decoded(data)
            if not self._entrance.notes:
                received_s = min(received_s, header.sent_s)
            elif peer in following:
                next_received_s, next_sent_s = following[peer]
                if received_s >= next_received_s:  # the kernel joined the two, and kept the time of the later one
                    received_s = next_received_s - max(0.0, next_sent_s - header.sent_s)
            received_s = max(looked_s, received_s)
            following[peer] = received_s, header.sent_s
            found.append(Received(header, payload, received_s))
        found.reverse()
        found.sort(key=_received_s)
        return found

    def forget(self, peers: Iterable[str]) -> None:
        """Close the connections to these peers, and drop what waits for them. They are not to be sent to again."""
        for peer in peers:
            self._apart.pop(peer, None)
            address = self._addresses.pop(peer, None)
            if address is not None:
                self._links.forget(address)

    def close(self) -> None:
        """Close all sockets. Queued messages have half a second to leave."""
        self._links.close(LINGER_S)
        self._entrance.close()


def _framed(header: DataHeader, payload: memoryview | bytes) -> tuple[bytes, memoryview | bytes]:
    encoded = _encode(header)
    size = _LENGTH.size + len(encoded) + len(payload)
    return frame_head(size) + _LENGTH.pack(len(encoded)) + encoded, payload


_received_s = operator.attrgetter("received_s")


def _decoded(data: memoryview) -> tuple[DataHeader, memoryview]:
    try:
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        return _decode(data[_LENGTH.size : end]), data[end:]
    except (struct.error, msgspec.MsgspecError) as error:
        raise RunFailed(f"{NO_MESSAGE}: {error}") from error
