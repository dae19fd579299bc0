"""One TCP transfer between two network namespaces, and how fast it was."""

from __future__ import annotations

import socket
import threading
import time

from testbed.emulation.shaping import in_netns

PATIENCE_S = 10.0


def goodput_bps(sender: int, receiver: int, address: str, size: int) -> float:
    """TCP goodput between two namespaces in bit/s, from the first to the last byte at the receiver."""

    def listen() -> socket.socket:
        listener = socket.create_server((address, 0))
        listener.settimeout(PATIENCE_S)
        return listener

    server = in_netns(receiver, listen)
    port = server.getsockname()[1]

    def send() -> None:
        client = in_netns(sender, lambda: socket.create_connection((address, port), timeout=PATIENCE_S))
        client.sendall(bytes(size))
        client.close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    connection, _ = server.accept()
    connection.settimeout(PATIENCE_S)
    first = len(connection.recv(1 << 16))
    started, received = time.monotonic(), 0
    while received + first < size and (piece := connection.recv(1 << 16)):
        received += len(piece)
    seconds = time.monotonic() - started
    thread.join()
    connection.close()
    server.close()
    return received * 8 / seconds
