"""The data plane: a message is one header and at most one raw buffer, and goes from device to device.

A device binds one PULL socket and connects one PUSH socket to each peer it sends to. So there is one connection per
ordered pair of devices, and messages keep their order on each. On the emulated network that is TCP, where anyone can
connect: a peer that does not begin with the run's secret is refused before any frame of its is read. Where no network
is emulated it is a Unix socket in the run's folder, which only its user can enter.
"""

from __future__ import annotations

import hmac
import resource
import struct
import threading
from collections.abc import Iterable, Mapping

import msgspec
import zmq

from testbed.errors import RunFailed
from testbed.transport.control import LINGER_MS

DATA_PORT = 5555
ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # where libzmq asks whether to accept a peer (rfc.zeromq.org/spec/27)
HANDSHAKE_MS = 10_000  # for a new peer to show the secret; until then its connection costs memory


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


class ProbeFrame(Header, frozen=True):
    """One frame of a rate probe; `left` frames follow."""

    left: int


class PingFrame(Header, frozen=True):
    """A message to be bounced; `back` is True on its way back."""

    count: int
    back: bool


DataHeader = Activation | Chunk | ChunkAck | ProbeFrame | PingFrame
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DataHeader).decode


class Door:
    """Decides for a context's sockets which peers may connect: those with the secret.

    See rfc.zeromq.org/spec/24 for PLAIN.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], secret: bytes) -> None:
        self._secret = secret
        # A shadow's socket: `context.destroy` leaves it to its thread, whose `recv` ends when the context does.
        asked: zmq.Socket[bytes] = zmq.Context.shadow(context).socket(zmq.REP)
        asked.bind(ZAP_ENDPOINT)
        threading.Thread(target=self._answer, args=(asked,), name="door", daemon=True).start()

    def _answer(self, asked: zmq.Socket[bytes]) -> None:
        try:
            while True:
                version, request, _, _, _, mechanism, *credentials = asked.recv_multipart()
                welcome = mechanism == b"PLAIN" and hmac.compare_digest(credentials[1], self._secret)
                asked.send_multipart([version, request, b"200" if welcome else b"400", b"", b"", b""])
        except zmq.ContextTerminated:
            asked.close(linger=0)


class DataPlane:
    """A device's sockets for data. `receive` belongs to one thread, everything else to another.

    `secret` is the run's, which the context's `Door` asks for; it is None where only the run can reach the address. A
    frame of more than `most_bytes` ends the connection that it comes by.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        secret: bytes | None = None,
        most_bytes: int = -1,
    ) -> None:
        self._context, self._secret = context, secret
        self._addresses: dict[str, str] = {}
        self._outbound: dict[str, zmq.Socket[bytes]] = {}
        self._strangers = 0
        self.inbound = context.socket(zmq.PULL)
        self.inbound.set_hwm(0)
        self.inbound.setsockopt(zmq.LINGER, LINGER_MS)
        self.inbound.setsockopt(zmq.MAXMSGSIZE, most_bytes)
        self._knocks: zmq.Socket[bytes] | None = None
        if secret is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # strangers' connections must not use up ours
            self.inbound.setsockopt(zmq.PLAIN_SERVER, 1)
            self.inbound.setsockopt(zmq.ZAP_DOMAIN, b"run")
            self.inbound.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
            self._knocks = self.inbound.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self._knocks.set_hwm(0)
        try:
            self.inbound.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise RunFailed(f"the data address {address} cannot be bound: {error}") from error
        self.address = self.inbound.getsockopt_string(zmq.LAST_ENDPOINT)

    def strangers(self) -> int:
        """How many connections so far did not show the secret. A connection under way counts until it does."""
        while self._knocks is not None and self._knocks.poll(0):
            what, _ = self._knocks.recv_multipart()
            (event,) = struct.unpack_from("=H", what)
            self._strangers += 1 if event == zmq.EVENT_ACCEPTED else -1
        return self._strangers

    def know(self, peers: Mapping[str, str]) -> None:
        """Learn the peers' addresses. Each peer is connected when it is first needed."""
        self._addresses = dict(peers)

    def connect(self, peers: Iterable[str]) -> None:
        """Connect to these peers now, so that their first message does not wait for it."""
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
            if self._secret is not None:
                socket.setsockopt(zmq.PLAIN_USERNAME, b"peer")
                socket.setsockopt(zmq.PLAIN_PASSWORD, self._secret)
            socket.connect(self._addresses[peer])
        return socket

    def send(self, peer: str, header: DataHeader, payload: memoryview | bytes = b"") -> None:
        """Queue one message; raises RunFailed for a peer without an address."""
        self._socket(peer).send_multipart([_encode(header), payload], copy=True)

    def receive(self) -> tuple[DataHeader, bytes]:
        """The next message waiting on the inbound socket; raises RunFailed for one that is not the data plane's."""
        try:
            header, payload = self.inbound.recv_multipart()
            return _decode(header), payload
        except (ValueError, msgspec.MsgspecError) as error:
            raise RunFailed(f"a peer sent what is no message of the data plane: {error}") from error

    def close(self) -> None:
        """Close all sockets. Queued messages have half a second to leave."""
        for socket in self._outbound.values():
            socket.close()
        if self._knocks is not None:
            self.inbound.disable_monitor()
            self._knocks = None
        self.inbound.close()
