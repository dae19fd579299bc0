"""What a message costs this machine's software, and what a link to another machine carries.

Two ends exchange messages over one TCP connection: `Echo` answers, on this machine or on another
(`testbed profile --serve`), and `time_messages` asks. On the loopback there is no wire, so half of a round trip is what
sending and receiving one message takes.
"""

from __future__ import annotations

import socket
import statistics
import struct
import threading
import time
from typing import NamedTuple

from testbed.errors import ConfigError, EnvironmentLacks
from testbed.profiling.numbers import Measured, over_rounds

PORT = 7077
SMALL_BYTES, LARGE_BYTES = 64, 64 * 1024
STREAM_BYTES = 16 * 2**20  # one way, for the rate of a link
MOST_BYTES = 64 * 2**20
TRIPS = 200  # in a round
ROUNDS = 5
PATIENCE_S = 10.0
_HEADER = struct.Struct("!II")  # (bytes that follow, bytes that are wanted back)


class MessageTimes(NamedTuple):
    """Seconds of this machine's software, for each message and for each of its bytes."""

    send_s: Measured
    receive_s: Measured
    send_s_per_byte: Measured
    receive_s_per_byte: Measured


class LinkTimes(NamedTuple):
    """A link to another machine."""

    rate_bps: Measured
    delay_s: Measured  # one way, without the software's time at both ends


class Echo:
    """Answers messages until it is closed; each connection in a thread of its own."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        try:
            self._listening = socket.create_server((address, port))
        except OSError as error:
            raise EnvironmentLacks(f"cannot listen at {address}:{port}: {error.strerror or error}") from error
        self.address: tuple[str, int] = self._listening.getsockname()[:2]

    def start(self) -> Echo:
        """Answer in a thread that ends with the program."""
        threading.Thread(target=self.serve, name="echo", daemon=True).start()
        return self

    def serve(self) -> None:
        """Answer until the socket is closed."""
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=_answer, args=(connection,), name="echo-peer", daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()


def _answer(connection: socket.socket) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while header := _read(connection, _HEADER.size):
                size, wanted = _HEADER.unpack(header)
                if max(size, wanted) > MOST_BYTES:
                    return
                _read(connection, size)
                connection.sendall(bytes(wanted))
        except OSError:
            return


def _read(connection: socket.socket, size: int) -> bytes:
    """So many bytes; fewer if the other end has closed."""
    found = bytearray(size)
    view, read = memoryview(found), 0
    while read < size:
        more = connection.recv_into(view[read:])
        if not more:
            return b""
        read += more
    return bytes(found)


class _Asking:
    """The asking end of a connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        try:
            self._connection = socket.create_connection(address, timeout=PATIENCE_S)
        except OSError as error:
            raise EnvironmentLacks(
                f"nobody answers at {address[0]}:{address[1]} ({error.strerror or error}): start "
                f"`testbed profile --serve ADDRESS` there"
            ) from error
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def trip(self, size: int, wanted: int) -> tuple[float, float]:
        """(seconds of a round trip, seconds of its sending call)."""
        message = _HEADER.pack(size, wanted) + bytes(size)
        started = time.perf_counter()
        self._connection.sendall(message)
        sent = time.perf_counter()
        if len(_read(self._connection, wanted)) != wanted:
            raise EnvironmentLacks("the other end has closed the connection: start `testbed profile --serve` again")
        return time.perf_counter() - started, sent - started

    def medians(self, size: int, trips: int) -> tuple[float, float]:
        """The medians of both over some round trips, which bring a small message back."""
        times = [self.trip(size, SMALL_BYTES) for _ in range(trips)]
        return statistics.median(trip for trip, _ in times), statistics.median(sent for _, sent in times)

    def close(self) -> None:
        self._connection.close()


def time_messages(rounds: int = ROUNDS, trips: int = TRIPS) -> MessageTimes:
    """What messages take on the loopback of this machine."""
    echo = Echo().start()
    asking = _Asking(echo.address)
    found: list[tuple[float, float, float, float]] = []
    asking.medians(SMALL_BYTES, trips)  # warms both ends
    for _ in range(rounds):
        trip, send = asking.medians(SMALL_BYTES, trips)
        long_trip, long_send = asking.medians(LARGE_BYTES, max(1, trips // 4))
        more = LARGE_BYTES - SMALL_BYTES
        per_byte = max(0.0, (long_trip - trip) / more)
        send_per_byte = min(per_byte, max(0.0, (long_send - send) / more))
        found.append((send, max(0.0, trip / 2 - send), send_per_byte, per_byte - send_per_byte))
    asking.close()
    echo.close()
    return MessageTimes(*(over_rounds(values) for values in zip(*found, strict=True)))


def time_link(
    peer: tuple[str, int], here: MessageTimes, rounds: int = ROUNDS, trips: int = TRIPS, stream: int = STREAM_BYTES
) -> LinkTimes:
    """The rate and the delay of the link to a peer, whose software is taken to be as fast as this machine's.

    The rate is that of a message so long that its bits decide.
    """
    asking = _Asking(peer)
    software = here.send_s.value + here.receive_s.value
    rates, delays = [], []
    for _ in range(rounds):
        trip, _ = asking.medians(SMALL_BYTES, trips)
        delays.append(max(0.0, trip / 2 - software))
        long, _ = asking.trip(stream, SMALL_BYTES)
        rates.append(8 * stream / max(long - trip, 1e-9))
    asking.close()
    return LinkTimes(over_rounds(rates), over_rounds(delays))


def parse_address(text: str, option: str) -> tuple[str, int]:
    """(address, port) from ADDRESS or ADDRESS:PORT; raises ConfigError naming the option."""
    address, colon, port = text.rpartition(":")
    if not colon:
        address, port = text, str(PORT)
    if not address or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{option} is {text!r}, but it must be an address, with or without a port: 10.0.0.5:{PORT}")
    return address, int(port)
