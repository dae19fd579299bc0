"""Times a path before the run: a burst for its rate, and empty messages to and fro for the software's time per hop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from testbed.transport.data import PingFrame, ProbeFrame
from testbed.transport.messages import Pinged, Probe, Probed
from testbed.worker.chunks import CHUNK_BYTES
from testbed.worker.outbox import Outbox


@dataclass
class _Taking:
    """A burst that is coming in; times are monotonic seconds of its first frame."""

    sent_s: float
    first_s: float
    size: int = 0


class Probing:
    """Both ends of probes and pings on one device."""

    def __init__(self, outbox: Outbox, report: Callable[[Probed | Pinged], None]) -> None:
        self._outbox, self._report = outbox, report
        self._probes: dict[str, _Taking] = {}  # by sender
        self._round_trips: list[float] = []
        self._ping_started_s = 0.0

    def probe(self, command: Probe) -> None:
        """Send an empty frame, from which the receiver counts, and then the payload."""
        sizes = [min(CHUNK_BYTES, command.size - start) for start in range(0, command.size, CHUNK_BYTES)]
        payload = memoryview(bytes(CHUNK_BYTES))
        self._outbox.send(command.peer, ProbeFrame("", 0.0, 0.0, 0.0, len(sizes)))
        for left, size in zip(reversed(range(len(sizes))), sizes, strict=True):
            self._outbox.send(command.peer, ProbeFrame("", 0.0, 0.0, 0.0, left), payload[:size])

    def take(self, header: ProbeFrame, size: int, due_s: float) -> None:
        """Count a frame, and report after the last one."""
        if size == 0:
            self._probes[header.sender] = _Taking(header.sent_s, due_s)
            return
        taking = self._probes.get(header.sender)
        if taking is None:
            return
        taking.size += size
        if header.left == 0:
            self._report(
                Probed(header.sender, taking.size, max(1e-9, due_s - taking.first_s), due_s - taking.sent_s)
            )  # fmt: skip
            del self._probes[header.sender]

    def ping(self, peer: str, count: int) -> None:
        """Send a message to a peer and back, `count` times in all."""
        self._outbox.send(peer, PingFrame("", 0.0, 0.0, 0.0, count, False))
        self._ping_started_s = time.monotonic()

    def bounce(self, header: PingFrame) -> None:
        """Send a message back, or note the time of one that has come back."""
        if not header.back:
            self._outbox.send(header.sender, PingFrame("", 0.0, 0.0, 0.0, header.count, True))
            return
        self._round_trips.append(time.monotonic() - self._ping_started_s)
        if header.count > 1:
            self.ping(header.sender, header.count - 1)
            return
        trips, self._round_trips = self._round_trips, []
        self._report(Pinged(header.sender, trips))
