"""One queue for everything that reaches a worker. It holds each data message until its emulated arrival.

The main thread takes data messages itself; the data plane tells when each arrived, however late the worker finds time.
Commands have a thread of their own. The `transport` delay and, in the local fleet, link rates are imposed here: a
message is due at its receipt plus the path's delay, and no earlier than the message before it from the same sender.
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
from typing import NamedTuple

import msgspec
import zmq

from testbed.placement.blocks import wire_bytes
from testbed.transport.control import ControlLine
from testbed.transport.data import DataHeader, DataPlane
from testbed.transport.messages import Command, PathView
from testbed.wire import OUTAGE_BPS
from testbed.worker.pacing import SPIN_S
from testbed.worker.scheduling import put_first


class Delivery(NamedTuple):
    """Something for the main thread: a data message, a command, or a note. What is due first comes first."""

    due_s: float
    order: int  # no two have the same, so nothing behind it is compared
    received_s: float
    content: object  # (DataHeader, memoryview) | Command | anything posted
    is_data: bool = False


class LinkClock:
    """When the last byte of the last message leaves a link whose rate is imposed in software."""

    def __init__(self) -> None:
        self.free_s = 0.0

    def pass_through(self, first_byte_s: float, last_byte_s: float, size: float, rate_bps: float) -> float:
        """Occupy the link from the message's first byte on (cut-through); returns when its last byte is through."""
        start = max(first_byte_s, self.free_s)
        self.free_s = max(last_byte_s, start + size * 8 / rate_bps)
        return self.free_s

    def stood_still(self, since_s: float, until_s: float) -> None:
        """Nothing passed meanwhile, so what was passing then takes so much longer."""
        if self.free_s > since_s:
            self.free_s += until_s - since_s


def _is_out(path: PathView | None) -> bool:
    return path is not None and 0 < path.down_bps <= OUTAGE_BPS


def _sender(one: Delivery) -> str:
    """Who sent a data message; empty for anything else."""
    if not one.is_data:
        return ""
    header: DataHeader = one.content[0]  # type: ignore[index]
    return header.sender


class Inbox:
    """Queues deliveries. `get` returns them in the order in which they are due."""

    def __init__(self, line: ControlLine, plane: DataPlane) -> None:
        self._line, self._plane = line, plane
        self._posted: deque[Delivery] = deque()  # by any thread
        self._held: list[Delivery] = []
        self._paths: Mapping[str, PathView] = {}
        self._last_due: dict[str, float] = {}
        self._outages: dict[str, tuple[float, list[Delivery]]] = {}  # since when, and what was on its way, by sender
        self._downlink = LinkClock()
        self._count = itertools.count()  # one step is atomic

    def start(self) -> None:
        """Begin to receive commands. Call it once, after the data socket is bound."""
        threading.Thread(target=self._receive_commands, name="commands", daemon=True).start()

    def set_paths(self, paths: Mapping[str, PathView]) -> None:
        """Use these delays and rates for messages received from now on. An outage holds up those on their way, too."""
        self._take(0.0)
        now = time.monotonic()
        self._paths = dict(paths)
        back = {sender: outage for sender, outage in self._outages.items() if not _is_out(paths.get(sender))}
        for sender in [sender for sender, path in paths.items() if _is_out(path) and sender not in self._outages]:
            held_up = [one for one in self._held if one.due_s > now and _sender(one) == sender]
            self._held = [one for one in self._held if one.due_s <= now or _sender(one) != sender]
            self._outages[sender] = now, held_up
        for sender, (since_s, held_up) in back.items():
            del self._outages[sender]
            self._last_due.pop(sender, None)
            for one in held_up:
                self._came_late(one, one.due_s + now - since_s)
        stranded = sorted(one for one in self._held if one.due_s == math.inf and _sender(one) in back)
        self._held = [one for one in self._held if one.due_s < math.inf or _sender(one) not in back]
        for one in stranded:
            content: tuple[DataHeader, memoryview] = one.content  # type: ignore[assignment]
            header, payload = content
            departs_s, departed_s = max(now, header.departs_s), max(now, header.departed_s)
            begun = msgspec.structs.replace(header, departs_s=departs_s, departed_s=departed_s)
            self._held.append(one._replace(due_s=self._due(begun, len(payload), now)))
        heapq.heapify(self._held)

    def _came_late(self, one: Delivery, due_s: float) -> None:
        """Hold what an outage interrupted for as long as was left of its way then."""
        sender = _sender(one)
        self._held.append(one._replace(due_s=due_s))
        self._last_due[sender] = max(due_s, self._last_due.get(sender, 0.0))
        self._downlink.free_s = max(due_s, self._downlink.free_s)

    def post(self, note: object) -> None:
        """Deliver a note from any thread of this worker at once."""
        now = time.monotonic()
        self._put(now, now, note)

    def get(self) -> Delivery:
        """Wait for the next delivery that is due."""
        timeout_s: float | None = 0.0 if self._held else None
        while True:
            self._take(timeout_s)
            if not self._held:
                timeout_s = None
                continue
            left = self._held[0].due_s - time.monotonic()
            if left <= 0:
                return heapq.heappop(self._held)
            if left > SPIN_S:
                timeout_s = left - SPIN_S if left < math.inf else None
            else:
                timeout_s = 0.0  # the last stretch is spun

    def _take(self, timeout_s: float | None) -> None:
        """Take what has arrived; if nothing has, wait for it, at most for the timeout (None: without end)."""
        for header, payload, received_s in self._plane.take(timeout_s):
            due_s = self._due(header, len(payload), received_s)
            heapq.heappush(self._held, Delivery(due_s, next(self._count), received_s, (header, payload), True))
        while self._posted:
            heapq.heappush(self._held, self._posted.popleft())

    def _put(self, due_s: float, received_s: float, content: object) -> None:
        self._posted.append(Delivery(due_s, next(self._count), received_s, content))
        self._plane.ring()

    def _receive_commands(self) -> None:
        put_first(threading.get_native_id())
        try:
            while True:
                command: Command = self._line.receive()
                self.post(command)
        except zmq.ZMQError:
            os._exit(1)  # without its context a worker cannot go on
        except Exception as error:  # the main thread reports a command that cannot be decoded
            self.post(error)

    def _due(self, header: DataHeader, size: int, received_s: float) -> float:
        path = self._paths.get(header.sender)
        if path is None:
            return received_s
        due = received_s + path.delay_s
        if path.overlap_s:  # half of the time since it was sent was spent before its second turn on the medium
            due -= min(path.overlap_s, max(0.0, received_s - header.sent_s) / 2)
        if _is_out(path):
            due = math.inf  # until the link is back
        elif path.down_bps:
            first, last = header.departs_s + path.delay_s, header.departed_s + path.delay_s
            due = max(received_s, self._downlink.pass_through(first, last, wire_bytes(size), path.down_bps))
        due = max(due, self._last_due.get(header.sender, 0.0))
        self._last_due[header.sender] = due
        return due
