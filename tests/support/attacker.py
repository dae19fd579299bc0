"""A foreign process inside the emulated network that attacks a run: `attacker.py ADDRESS COUNT`.

It knows everything that is public: the port, the protocol, the devices' names and the form of an activation. It prints
the number of connections that it made to the data port.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time

import zmq

from testbed.transport.data import Activation, _encode

GARBAGE_CONNECTIONS = 600
NULL, PLAIN = (b"\xff" + bytes(8) + b"\x7f\x03\x00" + name.ljust(20, b"\0") + bytes(32) for name in (b"NULL", b"PLAIN"))
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
HELLO = b"\x04\x0c\x05HELLO\x04peer\x00"  # without a password
OVERSIZED = b"\x06" + (1 << 40).to_bytes(8, "big")  # a command of a tebibyte
MALFORMED = [
    b"GET / HTTP/1.1\r\n\r\n", bytes(200), os.urandom(200), NULL + READY + b"\x00\x03abc", PLAIN + HELLO,
    PLAIN + OVERSIZED + bytes(5000), PLAIN + b"\x04\xff", b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01",
]  # fmt: skip


def forged(epoch: int, step: int) -> list[bytes]:
    """An activation in the form in which device b sends it."""
    now = time.monotonic()
    return [_encode(Activation("b", now, now, now, epoch, step, 0, "x", step, 1, 0.0, 0.0)), bytes(64 * 4)]


def queue_frames(context: zmq.Context[zmq.Socket[bytes]], address: str, count: int) -> None:
    """Queue forged and broken messages on a peer's socket, without a password and with wrong passwords."""
    for password in (None, b"guess", bytes(16)):
        pushing = context.socket(zmq.PUSH)
        pushing.set_hwm(0)
        pushing.setsockopt(zmq.LINGER, 0)
        if password is not None:
            pushing.setsockopt(zmq.PLAIN_USERNAME, b"b")
            pushing.setsockopt(zmq.PLAIN_PASSWORD, password)
        pushing.connect(f"tcp://{address}")
        with contextlib.suppress(zmq.Again):  # after the device refused it
            for number in range(count):
                broken = [os.urandom(30)] * (1 + number % 4)
                pushing.send_multipart(forged(number % 4, number) if number % 2 else broken, zmq.NOBLOCK)


def connect(host: str, port: str) -> socket.socket:
    made = socket.create_connection((host, int(port)), timeout=20)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close at once, so that ports are free
    return made


def read_to_the_end(one: socket.socket) -> None:
    """Wait until the device closes the connection or stops answering."""
    one.settimeout(0.05)
    with contextlib.suppress(OSError):
        while one.recv(4096):
            pass


def main(address: str, count: int) -> None:
    host, port = address.split(":")
    silent = [connect(host, port) for _ in range(GARBAGE_CONNECTIONS)]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    queue_frames(context, address, count)
    for number in range(count):
        with connect(host, port) as one:
            one.sendall(MALFORMED[number % len(MALFORMED)])
            if number % 10 == 0:
                read_to_the_end(one)
    print(len(silent) + count, flush=True)
    os._exit(0)  # libzmq sometimes waits forever for a refused socket


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
