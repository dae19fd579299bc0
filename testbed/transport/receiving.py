"""Receives frames from all peers in the caller's thread, with the time at which each arrived.

The kernel notes when the last byte of a frame came (SO_TIMESTAMPNS in socket(7)), so a frame that arrives while the
caller computes is not taken for a late one. A Unix socket has no such note; there `DataPlane` takes the sender's time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import struct
import time
from typing import NamedTuple

from testbed.errors import RunFailed
from testbed.transport.addresses import place_of, socket_for
from testbed.transport.zmtp import COMMAND, HEAD_BYTES, MORE, Refused, admission, read_head
from testbed.waiting import await_readable

NO_MESSAGE = "a peer sent what is no message of the data plane"
HANDSHAKE_S = 10.0  # for a new peer to show the secret; until then its connection costs memory
_BACKLOG = 4096
_ACCEPTED_AT_ONCE = 64
_LOOKS = 256  # at most, before what has come is handed over: whoever sends without end must not hold us up
_SO_TIMESTAMPNS = 35  # socket(7); Python has no name for it
_NOTE = struct.Struct("qq")  # timespec
_NOTE_ROOM = socket.CMSG_SPACE(_NOTE.size)


class Frame(NamedTuple):
    """A whole frame, and when its last byte arrived (monotonic seconds)."""

    data: memoryview
    received_s: float
    peer: int  # the connection that it came by


class _Ended(Exception):
    """The peer has closed its connection, or must not keep it."""


class _Peer:
    """One connection of a peer to us."""

    def __init__(self, connection: socket.socket, secret: bytes | None, most_bytes: int | None) -> None:
        self.socket, self.number = connection, connection.fileno()
        self.until_s = time.monotonic() + HANDSHAKE_S
        self._most_bytes = most_bytes
        self._noted = connection.family == socket.AF_INET
        self._admission = admission(secret)
        self._needs, answer = next(self._admission)
        self._answer(answer)
        self._said = b""  # of what is needed next
        self._body = bytearray()  # of the frame that is coming in
        self._filled = -1  # bytes of it that are here; -1: its head is not
        self.admitted = False

    def _answer(self, answer: bytes) -> None:
        if answer:
            try:
                self.socket.send(answer)
            except OSError as error:
                raise _Ended from error

    def shake_hands(self) -> None:
        """Read what there is of the peer's introduction; raises _Ended for a stranger."""
        try:
            while not self.admitted:
                self._said += self._read(self._needs - len(self._said))
                if len(self._said) == self._needs:
                    said, self._said = self._said, b""
                    self._needs, answer = self._admission.send(said)
                    self._answer(answer)
        except StopIteration:
            self.admitted = True
        except Refused:
            raise _Ended from None
        except BlockingIOError:
            return

    def _read(self, size: int) -> bytes:
        if not size:
            return b""
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _Ended from error
        if not data:
            raise _Ended
        return data

    def hear(self, ahead_s: float, found: list[Frame]) -> None:
        """Find the frame that has come, and those read with it; raises _Ended when the connection has.

        The kernel's clock is `ahead_s` ahead of the monotonic one.
        """
        try:
            if self._filled < 0:
                self._said += self._read(HEAD_BYTES - len(self._said))
            while self._filled >= 0 or self._begin():
                received_s = self._fill(ahead_s)
                if self._filled < len(self._body):
                    return
                self._filled = -1
                found.append(Frame(memoryview(self._body), received_s, self.number))
                if not self._said:
                    return
        except BlockingIOError:
            return

    def _begin(self) -> bool:
        """Make room for a frame whose head is here."""
        head = read_head(self._said)
        if head is None:
            return False
        flags, size, start = head
        if flags & COMMAND or (self._most_bytes is not None and size > self._most_bytes):
            raise _Ended
        if flags & MORE:
            raise RunFailed(f"{NO_MESSAGE}: it has more than one frame")
        self._body = bytearray(size)
        first = self._said[start : start + size]
        self._said = self._said[start + size :]
        self._body[: len(first)] = first
        self._filled = len(first)
        return True

    def _fill(self, ahead_s: float) -> float:
        """Read more of the frame; returns when the last of it arrived."""
        now = time.monotonic()
        if self._filled == len(self._body):
            return now
        room = memoryview(self._body)[self._filled :]
        try:
            size, notes, _, _ = self.socket.recvmsg_into([room], _NOTE_ROOM if self._noted else 0)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _Ended from error
        if not size:
            raise _Ended
        self._filled += size
        if not notes:
            return now
        seconds, nanoseconds = _NOTE.unpack(notes[0][2])
        return min(now, seconds + nanoseconds * 1e-9 - ahead_s)


class Entrance:
    """A bound socket, and the connections of all peers to it. It belongs to one thread, but for `ring`."""

    def __init__(self, address: str, secret: bytes | None, most_bytes: int | None) -> None:
        self._secret, self._most_bytes = secret, most_bytes
        self._peers: dict[int, _Peer] = {}
        self._strangers = 0
        self._ahead_s = 0.0
        if secret is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # strangers' connections must not use up ours
        self._socket = socket_for(address)
        try:
            place = place_of(address)
            if isinstance(place, str):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place)
            else:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # connections inherit it
            self._socket.bind(place)
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise RunFailed(f"the data address {address} cannot be bound: {error.strerror}") from error
        self.address = address if isinstance(place, str) else "tcp://{}:{}".format(*self._socket.getsockname())
        self._path = place if isinstance(place, str) else None
        self.notes = self._path is None  # whether the kernel notes when a frame came
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        for number in (self._socket.fileno(), self._bell):
            self._epoll.register(number, select.EPOLLIN)

    def ring(self) -> None:
        """End a `take` that waits, from any thread."""
        os.eventfd_write(self._bell, 1)

    def take(self, timeout_s: float | None) -> list[Frame]:
        """The frames that are here; if there are none, wait for one, for the bell or for the timeout (None: ever)."""
        found: list[Frame] = []
        ready = self._wait(timeout_s)
        self._ahead_s = time.time() - time.monotonic()
        for _ in range(_LOOKS):
            if not ready:
                break
            for number, _ in ready:
                if number == self._bell:
                    os.eventfd_read(self._bell)
                elif number == self._socket.fileno():
                    self._accept()
                else:
                    self._hear(number, found)
            ready = self._epoll.poll(0)
        return found

    def _wait(self, timeout_s: float | None) -> list[tuple[int, int]]:
        if timeout_s:  # epoll's own timeouts are in whole milliseconds
            await_readable(self._epoll.fileno(), timeout_s)
            timeout_s = 0
        return self._epoll.poll(timeout_s)

    def _hear(self, number: int, found: list[Frame]) -> None:
        peer = self._peers.get(number)
        if peer is None:  # it was ended a moment ago
            return
        try:
            if peer.admitted:
                peer.hear(self._ahead_s, found)
            else:
                peer.shake_hands()
                self._strangers -= peer.admitted
        except _Ended:
            self._end(number)

    def _accept(self) -> bool:
        """Accept some connections, and end those that took too long; returns whether there may be more."""
        now = time.monotonic()
        late = [number for number, peer in self._peers.items() if not peer.admitted and peer.until_s < now]
        for number in late:
            self._end(number)
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return False
            except ConnectionError:  # it has gone already
                continue
            except OSError as error:  # no descriptor is left
                self._end_oldest_stranger(error)
                continue
            connection.setblocking(False)
            self._strangers += 1
            try:
                peer = _Peer(connection, self._secret, self._most_bytes)
            except _Ended:
                connection.close()
                continue
            self._peers[peer.number] = peer
            self._epoll.register(connection, select.EPOLLIN)
        return True

    def _end_oldest_stranger(self, reason: OSError) -> None:
        oldest = next((number for number, peer in self._peers.items() if not peer.admitted), None)
        if oldest is None:
            raise RunFailed(f"no more connections to {self.address} can be accepted: {reason.strerror}") from reason
        self._end(oldest)

    def _end(self, number: int) -> None:
        self._peers.pop(number).socket.close()

    def strangers(self) -> int:
        """How many connections did not show the secret so far. One that is under way counts until it does."""
        if self._secret is None:
            return 0
        while self._accept():
            continue
        for number in [number for number, peer in self._peers.items() if not peer.admitted]:
            self._hear(number, [])
        return self._strangers

    def close(self) -> None:
        """Close all sockets."""
        for peer in self._peers.values():
            peer.socket.close()
        self._socket.close()
        self._epoll.close()
        os.close(self._bell)
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
