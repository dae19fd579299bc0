"""What a message's header weighs on the wire is what the cost model says."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from planes import activation, receive

from testbed.placement.blocks import MESSAGE_HEADER_BYTES
from testbed.transport.data import Chunk, ChunkAck, DataPlane


class Tap:
    """A TCP proxy that counts the bytes of one direction."""

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("tcp://").split(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.forward_bytes = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        client, _ = self._server.accept()
        server = socket.create_connection(self._target)
        threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()
        self._pump(client, server, True)

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.forward_bytes += len(data) if counted else 0
                sink.sendall(data)

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize("sender", ["a", "edge-15", "raspberry-pi-10"])
@pytest.mark.parametrize("payload", [768 * 4, 12 * 768 * 4])
def test_headers_on_the_wire_weigh_what_the_cost_model_says(sender: str, payload: int) -> None:
    here, there = (DataPlane("tcp://127.0.0.1:*") for _ in range(2))
    tap = Tap(there.address)
    here.know({"b": tap.address})
    here.send("b", activation(sender), bytes(payload))
    receive(there)  # the handshake is over
    before, count = tap.forward_bytes, 50
    for _ in range(count):
        here.send("b", activation(sender), bytes(payload))
    for _ in range(count):
        receive(there)
    tap.close()
    header = (tap.forward_bytes - before) / count - payload
    assert MESSAGE_HEADER_BYTES - 24 <= header <= MESSAGE_HEADER_BYTES, f"one header weighs {header} bytes"


@pytest.mark.parametrize("header", [
    Chunk("a", 1e5, 1e5, 1e5, 3, "head(11,11)", 70, 65536 * 70, 2**32 - 1),
    ChunkAck("a", 1e5, 1e5, 1e5, 3, "head(11,11)", 70, 65536),
])  # fmt: skip
def test_a_migrations_headers_weigh_no_more_than_the_cost_model_says(header: Chunk | ChunkAck) -> None:
    here, there = (DataPlane("tcp://127.0.0.1:*") for _ in range(2))
    tap = Tap(there.address)
    here.know({"b": tap.address})
    here.send("b", header)
    receive(there)
    before = tap.forward_bytes
    here.send("b", header)
    receive(there)
    assert 0 < tap.forward_bytes - before <= MESSAGE_HEADER_BYTES
    tap.close()
