"""Addresses as ZeroMQ writes them, and the sockets of the operating system that go with them.

Whoever only needs an address does not load ZeroMQ.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from testbed.errors import ConfigError

MAX_SOCKET_PATH = 107  # bytes of sun_path in unix(7), less its terminating zero
_UNIX_BUFFER_BYTES = 2**20  # asked for; the kernel may allow less


def ipc_address(folder: Path, name: str) -> str:
    """ZeroMQ's address of the Unix socket `folder/name`; raises ConfigError for a path that is too long."""
    path = folder / name
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(f"{path}: a socket path has at most {MAX_SOCKET_PATH} bytes; use a shorter folder")
    return f"ipc://{path}"


def socket_for(address: str) -> socket.socket:
    """A stream socket for addresses of this kind. Its calls never wait."""
    if address.startswith("ipc://"):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_BUFFER_BYTES)
        return made
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def place_of(address: str) -> str | tuple[str, int]:
    """What a socket's calls take for an address `ipc://PATH` or `tcp://HOST:PORT`; a port `*` is any free one."""
    _, _, rest = address.partition("://")
    if address.startswith("ipc://"):
        return rest
    host, _, port = rest.rpartition(":")
    return host, 0 if port == "*" else int(port)
