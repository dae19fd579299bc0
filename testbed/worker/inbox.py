"""One queue for everything that reaches a worker. It holds each data message until its emulated arrival.

A thread of its own receives, so that a message is stamped when it comes and not when the worker finds time. The
`transport` delay and, in the local fleet, link rates are imposed here: a message is due at its receipt plus the
path's delay, and no earlier than the message before it from the same sender.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec
import zmq

from testbed.placement.blocks import wire_bytes
from testbed.transport.control import ControlLine
from testbed.transport.data import DataHeader, DataPlane
from testbed.transport.messages import Command, PathView
from testbed.wire import OUTAGE_BPS
from testbed.worker.pacing import SPIN_S
from testbed.worker.scheduling import put_first


@dataclass(frozen=True, order=True)
class Delivery:
    """Something for the main thread: a data message, a command, or a note from another thread of this worker."""

    due_s: float
    order: int
    received_s: float = field(compare=False)
    content: object = field(compare=False)  # (DataHeader, bytes) | Command | anything posted
    is_data: bool = field(compare=False, default=False)


class LinkClock:
    """When the last byte of the last message leaves a link whose rate is imposed in software."""

    def __init__(self) -> None:
        self.free_s = 0.0

    def pass_through(self, first_byte_s: float, last_byte_s: float, size: float, rate_bps: float) -> float:
        """Occupy the link from the message's first byte on (cut-through); returns when its last byte is through."""
        start = max(first_byte_s, self.free_s)
        self.free_s = max(last_byte_s, start + size * 8 / rate_bps)
        return self.free_s


class Inbox:
    """Queues deliveries. `get` returns them in the order in which they are due."""

    def __init__(self, line: ControlLine, plane: DataPlane) -> None:
        self._line, self._plane = line, plane
        # Not queue.SimpleQueue: in CPython 3.11 its get() with a short timeout sometimes waits until the next put().
        self._arrived: deque[Delivery] = deque()
        self._news = threading.Condition()
        self._held: list[Delivery] = []
        self._paths: Mapping[str, PathView] = {}
        self._last_due: dict[str, float] = {}
        self._downlink = LinkClock()
        self._lock = threading.Lock()  # both threads compute when a message is due
        self._count = itertools.count()  # one step is atomic

    def start(self) -> None:
        """Begin to receive. Call it once, after all sockets are connected."""
        threading.Thread(target=self._receive, name="receive", daemon=True).start()

    def set_paths(self, paths: Mapping[str, PathView]) -> None:
        """Use these delays and rates for messages received from now on, and for those that an outage held."""
        now = time.monotonic()
        with self._lock:
            self._paths = dict(paths)
            self._last_due = {sender: due for sender, due in self._last_due.items() if due < math.inf}
            self._take_arrived()
            stranded = sorted(one for one in self._held if one.due_s == math.inf)
            self._held = [one for one in self._held if one.due_s < math.inf]
            for one in stranded:
                content: tuple[DataHeader, bytes] = one.content  # type: ignore[assignment]
                header, payload = content
                begun = msgspec.structs.replace(header, departs_s=now, departed_s=now)
                self._held.append(replace(one, due_s=self._due(begun, len(payload), now)))
            heapq.heapify(self._held)

    def post(self, note: object) -> None:
        """Deliver a note from another thread of this worker at once."""
        self._put(time.monotonic(), time.monotonic(), note)

    def get(self) -> Delivery:
        """Wait for the next delivery that is due."""
        while True:
            with self._news:
                self._take_arrived()
                now = time.monotonic()
                if self._held and self._held[0].due_s <= now:
                    return heapq.heappop(self._held)
                left = self._held[0].due_s - now if self._held else math.inf
                if left > SPIN_S:
                    self._news.wait(left - SPIN_S if left < math.inf else None)
                    continue
            time.sleep(0)  # the last stretch is spun, without the lock, so that any other thread can run

    def _take_arrived(self) -> None:
        while self._arrived:
            heapq.heappush(self._held, self._arrived.popleft())

    def _put(self, due_s: float, received_s: float, content: object, is_data: bool = False) -> None:
        with self._news:
            self._arrived.append(Delivery(due_s, next(self._count), received_s, content, is_data))
            self._news.notify()

    def _receive(self) -> None:
        put_first(threading.get_native_id())
        poller = zmq.Poller()
        poller.register(self._plane.inbound, zmq.POLLIN)
        poller.register(self._line.inbound, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll())
                now = time.monotonic()
                if self._plane.inbound in ready:
                    header, payload = self._plane.receive()
                    with self._lock:
                        self._put(self._due(header, len(payload), now), now, (header, payload), is_data=True)
                if self._line.inbound in ready:
                    command: Command = self._line.receive()
                    self._put(now, now, command)
        except zmq.ZMQError:
            os._exit(1)  # without its context a worker cannot go on
        except Exception as error:  # the main thread reports a frame that cannot be decoded
            self.post(error)

    def _due(self, header: DataHeader, size: int, received_s: float) -> float:
        path = self._paths.get(header.sender)
        if path is None:
            return received_s
        due = received_s + path.delay_s
        if 0 < path.down_bps <= OUTAGE_BPS:
            due = math.inf  # until the link is back
        elif path.down_bps:
            first, last = header.departs_s + path.delay_s, header.departed_s + path.delay_s
            due = max(received_s, self._downlink.pass_through(first, last, wire_bytes(size), path.down_bps))
        due = max(due, self._last_due.get(header.sender, 0.0))
        self._last_due[header.sender] = due
        return due
