"""ZeroMQ's protocol on a stream of bytes, as far as the data plane speaks it; it touches no socket.

See rfc.zeromq.org/spec/23 (ZMTP 3.0) and rfc.zeromq.org/spec/24 (PLAIN).
"""

from __future__ import annotations

import hmac
from collections.abc import Generator

MORE, LONG, COMMAND = 1, 2, 4  # flags of a frame
HEAD_BYTES = 9  # of a long frame: flags and eight bytes of length; a short one has one byte of length
_USER = b"peer"


class Refused(Exception):
    """The other end does not speak the protocol, or does not know the secret."""


def _greeting(plain: bool, server: bool) -> bytes:
    mechanism = (b"PLAIN" if plain else b"NULL").ljust(20, b"\0")
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism + bytes([server]) + bytes(31)


def _command(name: bytes, body: bytes = b"") -> bytes:
    return bytes([COMMAND, 1 + len(name) + len(body), len(name)]) + name + body


def _metadata(socket_type: bytes) -> bytes:
    return b"\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type


def _credentials(secret: bytes) -> bytes:
    return bytes([len(_USER)]) + _USER + bytes([len(secret)]) + secret


def opening(secret: bytes | None) -> bytes:
    """All that a PUSH socket says before its first message. It need not wait for answers."""
    metadata = _metadata(b"PUSH")
    if secret is None:
        return _greeting(False, False) + _command(b"READY", metadata)
    return _greeting(True, False) + _command(b"HELLO", _credentials(secret)) + _command(b"INITIATE", metadata)


def admission(secret: bytes | None) -> Generator[tuple[int, bytes], bytes, None]:
    """How a PULL socket admits a peer: yields how many bytes it needs next, and what to answer before.

    It is sent exactly those bytes. It ends when the peer is admitted, and raises Refused for one that is not.
    """
    ours = _greeting(secret is not None, True)
    if (yield 1, ours) != ours[:1]:
        raise Refused
    theirs = yield len(ours) - 1, b""
    if theirs[8:9] != b"\x7f" or theirs[9] < 3 or theirs[11:31] != ours[12:32]:
        raise Refused
    ready = _command(b"READY", _metadata(b"PULL"))
    if secret is None:
        yield from _heard(b"READY", ready)
        return
    if not hmac.compare_digest((yield from _heard(b"HELLO", b"")), _credentials(secret)):
        raise Refused
    yield from _heard(b"INITIATE", _command(b"WELCOME"))
    yield 0, ready


def _heard(name: bytes, answer: bytes) -> Generator[tuple[int, bytes], bytes, bytes]:
    """The body of the next command, which must have this name."""
    flags, size = yield 2, answer
    if flags != COMMAND:
        raise Refused
    said = yield size, b""
    if said[:1] != bytes([len(name)]) or said[1 : 1 + len(name)] != name:
        raise Refused
    return said[1 + len(name) :]


def frame_head(size: int) -> bytes:
    """What goes before a message of one frame."""
    return bytes([0, size]) if size < 256 else b"\x02" + size.to_bytes(8, "big")


def read_head(data: bytes) -> tuple[int, int, int] | None:
    """(flags, the frame's size, where it begins in `data`), or None while bytes are missing."""
    if len(data) < 2:
        return None
    if not data[0] & LONG:
        return data[0], data[1], 2
    if len(data) < HEAD_BYTES:
        return None
    return data[0], int.from_bytes(data[1:HEAD_BYTES], "big"), HEAD_BYTES
