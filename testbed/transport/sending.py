"""Sends messages to peers and never waits for them.

The caller's thread hands each message to the kernel. A thread sends later, in order, what the kernel has no room for
and what waits for a connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence

from testbed.transport.addresses import place_of, socket_for

RETRY_S = 0.05  # from one attempt to connect to the next
Buffer = bytes | memoryview


class Link:
    """A connection to one peer. It is made when it is first needed, and again after it has broken."""

    def __init__(self, address: str, opening: bytes) -> None:
        self._address, self._opening = address, opening
        self._lock = threading.Lock()
        self._waiting: deque[Buffer] = deque()
        self._socket: socket.socket | None = None
        self._connected = self._closed = False

    def send(self, parts: Sequence[Buffer]) -> bool:
        """Send the parts one after another; returns whether the kernel has all of them."""
        with self._lock:
            if self._waiting or not self._connected:
                self._waiting.append(b"".join(parts))
                return self._go_on()
            assert self._socket is not None
            try:
                sent = self._socket.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._forget()
                return True
            if sent < sum(map(len, parts)):
                self._waiting.append(b"".join(parts)[sent:])
            return not self._waiting

    def go_on(self) -> bool:
        """Connect, and send what waits; returns whether nothing is left to do."""
        with self._lock:
            return self._go_on()

    def fileno(self) -> int | None:
        """The descriptor that becomes writable when `go_on` can do more; None: there is none to wait for."""
        with self._lock:
            return None if self._socket is None else self._socket.fileno()

    def _go_on(self) -> bool:
        if self._closed:  # another thread may still have something for it
            self._waiting.clear()
            return True
        if not self._connected and not self._connect():
            return False
        while self._waiting:
            assert self._socket is not None
            try:
                sent = self._socket.send(self._waiting[0])
            except BlockingIOError:
                return False
            except OSError:
                self._forget()
                return True
            first = memoryview(self._waiting.popleft())
            if sent < len(first):
                self._waiting.appendleft(first[sent:])
        return True

    def _connect(self) -> bool:
        if self._socket is None:
            self._socket = socket_for(self._address)
        failure = self._socket.connect_ex(place_of(self._address))
        if failure in (errno.EINPROGRESS, errno.EALREADY):
            return False
        if failure not in (0, errno.EISCONN):  # nobody is there yet, or too many are just connecting
            self._socket.close()
            self._socket = None
            return False
        self._connected = True
        self._waiting.appendleft(self._opening)
        return True

    def _forget(self) -> None:
        """The peer has gone, and so has what it was sent."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._connected = None, False
        self._waiting.clear()

    def close(self) -> None:
        """Close the connection for good. The kernel still sends what it has taken."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # unread answers would make the kernel throw away what it has
                    self._socket.recv(4096)
            self._forget()


class Links:
    """The connections to all peers, and the thread that sends what they could not take at once."""

    def __init__(self, opening: bytes) -> None:
        self._opening = opening
        self._links: dict[tuple[str, bool], Link] = {}
        self._busy: set[Link] = set()
        self._changed = threading.Condition()  # of what is busy
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self._thread.start()

    @property
    def thread(self) -> int:
        """The kernel's number of the sending thread."""
        assert self._thread.native_id is not None
        return self._thread.native_id

    def to(self, address: str, apart: bool = False) -> Link:
        """The connection to an address, or the second one apart from it, which is begun if there is none."""
        link = self._links.get((address, apart))
        if link is None:
            link = self._links[address, apart] = Link(address, self._opening)
            if not link.go_on():
                self._finish_later(link)
        return link

    def send(self, link: Link, parts: Sequence[Buffer]) -> None:
        """Send the parts one after another, now or later."""
        if not link.send(parts):
            self._finish_later(link)

    def forget(self, address: str) -> None:
        """Close the connections to an address, and drop what waits for them."""
        links = [self._links.pop((address, apart)) for apart in (False, True) if (address, apart) in self._links]
        with self._changed:
            for link in links:
                self._busy.discard(link)
                link.close()
        os.eventfd_write(self._bell, 1)

    def _finish_later(self, link: Link) -> None:
        with self._changed:
            self._busy.add(link)
            self._changed.notify_all()
        os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._busy or self._closed)
                if self._closed:
                    return
                busy = list(self._busy)
            self._await_room(busy)
            with self._changed:
                self._busy = {link for link in self._busy if not link.go_on()}
                self._changed.notify_all()

    def _await_room(self, busy: list[Link]) -> None:
        """Wait until one of them may take more, until another one has something to send, or for a moment."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        retry = False
        for link in busy:
            number = link.fileno()
            if number is None:
                retry = True
            else:
                poll.register(number, select.POLLOUT)
        poll.poll(RETRY_S * 1000 if retry else None)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)

    def close(self, linger_s: float) -> None:
        """Close all connections once everything is sent, or after `linger_s`."""
        deadline = time.monotonic() + linger_s
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, max(0.0, deadline - time.monotonic()))
            self._closed = True
            self._changed.notify_all()
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        for link in self._links.values():
            link.close()
        self._links.clear()
        os.close(self._bell)
