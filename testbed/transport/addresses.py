"""Addresses of Unix sockets: how long a path may be, and how ZeroMQ writes it.

It opens no socket, so whoever only needs a path does not load ZeroMQ.
"""

from __future__ import annotations

import os
from pathlib import Path

from testbed.errors import ConfigError

MAX_SOCKET_PATH = 107  # bytes of sun_path in unix(7), less its terminating zero


def ipc_address(folder: Path, name: str) -> str:
    """ZeroMQ's address of the Unix socket `folder/name`; raises ConfigError for a path that is too long."""
    path = folder / name
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(f"{path}: a socket path has at most {MAX_SOCKET_PATH} bytes; use a shorter folder")
    return f"ipc://{path}"
