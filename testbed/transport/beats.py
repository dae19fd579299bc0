"""Heartbeats: datagrams on Unix sockets of their own, for which nobody wakes.

A heartbeat costs its sender one system call. The sockets are paths in the run's folder and cross network namespaces,
so heartbeats take no room on an emulated link. Each device has its own, because the kernel queues only about ten
datagrams for a socket. What finds no room is dropped: only the last heartbeat counts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

HEARTBEAT_S = 0.25  # wall seconds between two
_BEAT = struct.Struct("=Q?")


class Heartbeat(NamedTuple):
    """A worker lives, and its main thread has done so many operations."""

    operations: int
    waiting: bool  # for input


class BeatHub:
    """The controller's end; `paths` names every device's socket."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths
        self._sockets: dict[str, socket.socket] = {}
        for device, path in paths.items():
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._sockets[device] = made
            made.bind(path)

    def take(self) -> dict[str, Heartbeat]:
        """The last heartbeat of each device since the last call."""
        found: dict[str, Heartbeat] = {}
        for device, beats in self._sockets.items():
            while True:
                try:
                    found[device] = Heartbeat(*_BEAT.unpack(beats.recv(_BEAT.size)))
                except BlockingIOError:
                    break
                except struct.error:  # no worker sent that
                    continue
        return found

    def close(self) -> None:
        """Close the sockets and remove their paths."""
        for device, made in self._sockets.items():
            made.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._paths[device])
        self._sockets = {}


class BeatLine:
    """A worker's end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def send(self, operations: int, waiting: bool) -> None:
        """Send a heartbeat, or drop it where the controller takes none."""
        with contextlib.suppress(OSError):
            self._socket.sendto(_BEAT.pack(operations, waiting), self._path)
