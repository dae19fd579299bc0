"""The data plane: one header and at most one raw buffer per message, device to device over TCP.

A device binds one PULL socket on its address in the emulated network and connects one PUSH socket to each
peer it sends to, so there is one TCP connection per ordered pair of devices and order holds on each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import zmq

from testbed.errors import RunFailed

DATA_PORT = 5555
LINGER_MS = 500


class Header(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all data messages; times are wall (monotonic) seconds, shared by all processes of one host."""

    sender: str
    sent_s: float
    departs_s: float  # local fleet: when the first and last byte left the sender's emulated uplink
    departed_s: float


class Activation(Header, frozen=True):
    """Rows of the residual stream (`x`), of heads' outputs (`o`), or of proj's output (`y`)."""

    epoch: int
    step: int
    layer: int
    kind: str
    position: int
    rows: int
    compute_s: float  # accumulated along the critical path that led here
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


class ProbeFrame(Header, frozen=True):
    """One frame of a rate probe; `left` frames follow."""

    left: int


class PingFrame(Header, frozen=True):
    """A bounced message; `back` on its way home."""

    count: int
    back: bool


DataHeader = Activation | Chunk | ChunkAck | ProbeFrame | PingFrame
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DataHeader).decode


class DataPlane:
    """The device's sockets on the emulated network. `receive` belongs to one thread, `send` to another."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._context = context
        self.inbound = context.socket(zmq.PULL)
        self.inbound.set_hwm(0)
        self.inbound.setsockopt(zmq.LINGER, LINGER_MS)
        if address.endswith(":*"):
            self.inbound.bind(address)
            self.address = self.inbound.getsockopt_string(zmq.LAST_ENDPOINT)
        else:
            self.inbound.bind(address)
            self.address = address
        self._addresses: dict[str, str] = {}
        self._outbound: dict[str, zmq.Socket[bytes]] = {}

    def know(self, peers: Mapping[str, str]) -> None:
        """Learn the peers' addresses; each is connected when it is first needed."""
        self._addresses = dict(peers)

    def connect(self, peers: Iterable[str]) -> None:
        """Connect to these peers now, so that their first message finds the connection there."""
        for peer in peers:
            self._socket(peer)

    def _socket(self, peer: str) -> zmq.Socket[bytes]:
        socket = self._outbound.get(peer)
        if socket is None:
            if peer not in self._addresses:
                raise RunFailed(f"a message for device {peer!r} has no connection")
            socket = self._outbound[peer] = self._context.socket(zmq.PUSH)
            socket.set_hwm(0)
            socket.setsockopt(zmq.LINGER, LINGER_MS)
            socket.connect(self._addresses[peer])
        return socket

    def send(self, peer: str, header: DataHeader, payload: memoryview | bytes = b"") -> None:
        """Queue one message; raises RunFailed for a peer without an address."""
        self._socket(peer).send_multipart([_encode(header), payload], copy=True)

    def receive(self) -> tuple[DataHeader, bytes]:
        """The next message waiting on the inbound socket."""
        header, payload = self.inbound.recv_multipart()
        return _decode(header), payload

    def close(self) -> None:
        """Close all sockets; what is queued has half a second to leave."""
        for socket in self._outbound.values():
            socket.close()
        self.inbound.close()
