"""The two ends of `benchmarks.hop`, each a process of its own: `hop_ends.py WAY near|far HOPS BYTES FOLDER`.

The near end sends a message and waits until the far end has sent it back. It prints the seconds of each round trip as
JSON. This program also runs with the modules of an older checkout, so it imports few names of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PORT = 5555
ADDRESSES = {"near": "10.1.0.1", "far": "10.1.0.2"}
WARM = 200  # round trips that are not counted
SWITCH_INTERVAL_S = 50e-6  # as in a worker
SECRET = b"0123456789abcdef"
PATIENCE_S = 10.0
C_SOURCE = r"""
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {  /* near|far ADDRESS PORT ROUND_TRIPS WARM BYTES */
    int near = !strcmp(argv[1], "near"), port = atoi(argv[3]), trips = atoi(argv[4]), warm = atoi(argv[5]), one = 1;
    long size = atol(argv[6]);
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = inet_addr(argv[2])};
    char *bytes = calloc(1, size);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (near) {
        while (connect(s, (void *)&where, sizeof where)) {
            usleep(10000);
            close(s);
            s = socket(AF_INET, SOCK_STREAM, 0);
        }
    } else {
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(s, (void *)&where, sizeof where) || listen(s, 1)) return 1;
        s = accept(s, 0, 0);
    }
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (int trip = 0; trip < warm + trips; trip++) {
        double began = now();
        if (near && send(s, bytes, size, 0) != size) return 1;
        if (recv(s, bytes, size, MSG_WAITALL) != size) return 1;
        if (!near && send(s, bytes, size, 0) != size) return 1;
        if (near && trip >= warm) printf("%s%.9f", trip == warm ? "[" : ", ", now() - began);
    }
    if (near) printf("]\n");
    return 0;
}
"""


def trips(count: int, send: Callable[[], Any], receive: Callable[[], Any]) -> list[float]:
    """The seconds of each round trip of the near end."""
    taken = []
    for _ in range(WARM + count):
        started = time.perf_counter()
        send()
        receive()
        taken.append(time.perf_counter() - started)
    return taken[WARM:]


def echo(count: int, send: Callable[[], Any], receive: Callable[[], Any]) -> list[float]:
    """The far end."""
    for _ in range(WARM + count):
        receive()
        send()
    time.sleep(0.3)  # the last message leaves
    return []


def in_c(end: str, count: int, size: int, folder: Path) -> None:
    """Blocking sockets in C; this process becomes the program."""
    program = folder / f"hop-{end}"
    subprocess.run(["gcc", "-O2", "-w", "-x", "c", "-o", program, "-"], input=C_SOURCE, text=True, check=True)
    words = (end, ADDRESSES["far"], PORT, count, WARM, size)
    os.execv(program, [str(program), *map(str, words)])


def sockets(end: str, count: int, size: int) -> list[float]:
    """Blocking sockets in Python."""
    there = (ADDRESSES["far"], PORT)
    if end == "far":
        server = socket.create_server(there)
        one, _ = server.accept()
    else:
        one = connected(there)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    payload, room = bytes(size), bytearray(size)

    def receive() -> None:
        view = memoryview(room)
        while len(view):
            view = view[one.recv_into(view) :]

    return (trips if end == "near" else echo)(count, lambda: one.sendall(payload), receive)


def connected(there: tuple[str, int]) -> socket.socket:
    """A connection to a server that may have yet to start."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(there)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def pyzmq(end: str, count: int, size: int) -> list[float]:
    """A PUSH and a PULL socket at each end, a frame for each message."""
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.bind(f"tcp://{ADDRESSES[end]}:{PORT}")
    push.connect(f"tcp://{ADDRESSES[other(end)]}:{PORT}")
    payload = bytes(size)
    return (trips if end == "near" else echo)(count, lambda: push.send(payload), pull.recv)


def ours(end: str, count: int, size: int, folder: Path, way: str) -> list[float]:
    """A worker's data plane; for a `hop` with its inbox and outbox, and priorities as in a worker."""
    import zmq

    from testbed.transport.control import ControlLine
    from testbed.transport.data import Activation
    from testbed.worker.inbox import Inbox
    from testbed.worker.outbox import Outbox
    from testbed.worker.scheduling import Precedence, put_first, transport_threads

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    line = ControlLine(context, folder, end)
    for thread in transport_threads():
        put_first(thread)
    plane = data_plane(context, f"tcp://{ADDRESSES[end]}:{PORT}")
    peer = other(end)
    plane.know({peer: f"tcp://{ADDRESSES[peer]}:{PORT}"})
    plane.connect([peer])
    payload, now = bytes(size), time.monotonic()
    header = Activation(end, now, now, now, 3, 40, 11, "x", 300, 1, 0.0123, 0.0045)
    if way == "plane":

        def take() -> None:
            while not plane.take(None):
                continue

        return (trips if end == "near" else echo)(count, lambda: plane.send(peer, header, payload), take)
    inbox, outbox = Inbox(line, plane), Outbox(end, plane)
    inbox.start()
    precedence = Precedence() if way == "paced" else None

    def send() -> None:
        if precedence is not None:
            precedence.take()
        outbox.send(peer, header, payload)

    def receive() -> None:
        if precedence is not None:
            precedence.give_up()
        while not inbox.get().is_data:
            continue

    return (trips if end == "near" else echo)(count, send, receive)


def data_plane(context: Any, address: str) -> Any:
    """A worker's data plane on a network, as this or an older checkout makes it."""
    from testbed.transport import data
    from testbed.worker.scheduling import put_first

    if hasattr(data, "Door"):
        data.Door(context, SECRET)
        return data.DataPlane(context, address, SECRET)
    if not hasattr(data.DataPlane, "take"):
        return data.DataPlane(context, address)
    plane = data.DataPlane(address, SECRET)
    put_first(plane.sending_thread)
    return plane


def other(end: str) -> str:
    """The name of the other end."""
    return "far" if end == "near" else "near"


def main() -> None:
    """Be one end."""
    way, end, count, size, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
    if way == "C":
        in_c(end, count, size, folder)
    elif way == "sockets":
        taken = sockets(end, count, size)
    elif way == "pyzmq":
        taken = pyzmq(end, count, size)
    else:
        taken = ours(end, count, size, folder, way)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(taken), flush=True)
    os._exit(0)  # threads that receive go on until then


if __name__ == "__main__":
    main()
