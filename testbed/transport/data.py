"""The data plane: one header and at most one raw buffer per message, device to device.

A device binds one PULL socket and connects one PUSH socket to each peer it sends to, so there is one connection per
ordered pair of devices and order holds on each. On the emulated network that is TCP, where anyone may knock: who does
not begin with the run's secret is refused before a frame of his is read. Where no network is emulated it is a Unix
socket in the run's folder, which only its user can enter.
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

DATA_PORT = 5555
LINGER_MS = 500
ZAP_ENDPOINT = "inproc://zeromq.zap.01"  # rfc.zeromq.org/spec/27: where libzmq asks whether to let someone in
HANDSHAKE_MS = 10_000  # for who knocks to say who he is: his connection costs memory until then


class Header(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all data messages; times are wall (monotonic) seconds, shared by all processes of one host."""

    sender: str
    sent_s: float
    departs_s: float  # local fleet: when the first and last byte left the sender's emulated uplink
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


class Door:
    """Answers for a context's sockets who may connect: whoever has the secret (PLAIN, rfc.zeromq.org/spec/24)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], secret: bytes) -> None:
        self._secret = secret
        # Of a shadow, so that `context.destroy` leaves it to its thread, whose `recv` ends when the context does.
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
    """A device's sockets for data. `receive` belongs to one thread, all else to another.

    `secret` is the run's, which the context's `Door` asks for; None where none but the run can reach the address. A
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
        """How many connections so far did not show the secret; one that is being made counts until it is."""
        while self._knocks is not None and self._knocks.poll(0):
            what, _ = self._knocks.recv_multipart()
            (event,) = struct.unpack_from("=H", what)
            self._strangers += 1 if event == zmq.EVENT_ACCEPTED else -1
        return self._strangers

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
            if self._secret is not None:
                socket.setsockopt(zmq.PLAIN_USERNAME, b"peer")
                socket.setsockopt(zmq.PLAIN_PASSWORD, self._secret)
            socket.connect(self._addresses[peer])
        return socket

    def send(self, peer: str, header: DataHeader, payload: memoryview | bytes = b"") -> None:
        """Queue one message; raises RunFailed for a peer without an address."""
        self._socket(peer).send_multipart([_encode(header), payload], copy=True)

    def receive(self) -> tuple[DataHeader, bytes]:
        """The next message waiting on the inbound socket; raises RunFailed for one that is not ours."""
        try:
            header, payload = self.inbound.recv_multipart()
            return _decode(header), payload
        except (ValueError, msgspec.MsgspecError) as error:
            raise RunFailed(f"a peer sent what is no message of the data plane: {error}") from error

    def close(self) -> None:
        """Close all sockets; what is queued has half a second to leave."""
        for socket in self._outbound.values():
            socket.close()
        if self._knocks is not None:
            self.inbound.disable_monitor()
            self._knocks = None
        self.inbound.close()
