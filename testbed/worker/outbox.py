"""Sending to peers; in the local fleet the sender's uplink is imposed here as a departure time."""

from __future__ import annotations

import time

import msgspec

from testbed.placement.blocks import wire_bytes
from testbed.transport.data import DataHeader, DataPlane
from testbed.worker.inbox import LinkClock


class Outbox:
    """Stamps and sends data messages."""

    def __init__(self, device: str, plane: DataPlane) -> None:
        self.device = device
        self._plane = plane
        self._uplink = LinkClock()
        self.up_bps = 0.0  # 0: the link itself limits the rate

    def send(self, peer: str, header: DataHeader, payload: memoryview | bytes = b"") -> float:
        """Send one message now; returns the time it was stamped with (monotonic seconds)."""
        now = time.monotonic()
        departs = departed = now
        if self.up_bps:
            departs = max(now, self._uplink.free_s)
            departed = self._uplink.pass_through(now, now, wire_bytes(len(payload)), self.up_bps)
        stamped = msgspec.structs.replace(
            header, sender=self.device, sent_s=now, departs_s=departs, departed_s=departed
        )
        self._plane.send(peer, stamped, payload)
        return now
