"""Sending to peers. In the local fleet the sender's uplink is imposed here, as a departure time."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from contextlib import nullcontext

import msgspec

from testbed.placement.blocks import wire_bytes
from testbed.transport.data import DataHeader, DataPlane
from testbed.wire import OUTAGE_BPS
from testbed.worker.inbox import LinkClock

_AT_ONCE = nullcontext()


class Outbox:
    """Stamps data messages and sends them."""

    def __init__(self, device: str, plane: DataPlane) -> None:
        self.device = device
        self._plane = plane
        self._uplink = LinkClock()
        # On an imposed uplink, what is copied in the background and what an outage held must keep their order.
        self._turn = threading.RLock()
        self._up_bps = 0.0  # 0: the link itself limits the rate
        self._out_since_s = 0.0  # of the present or the last outage
        self._stranded: list[tuple[str, DataHeader, bytes, bool]] = []  # messages that an outage holds

    def set_rate(self, up_bps: float) -> None:
        """Impose this rate from now on (0: the link itself does). Messages held by an outage leave when it is over."""
        with self._turn:
            was_out, self._up_bps = self._is_out(), up_bps
            if self._is_out():
                self._out_since_s = self._out_since_s if was_out else time.monotonic()
                return
            if was_out:
                self._uplink.stood_still(self._out_since_s, time.monotonic())
            stranded, self._stranded = self._stranded, []
            for peer, header, payload, apart in stranded:
                self.send(peer, header, payload, apart)

    def forget(self, peers: Collection[str]) -> None:
        """Drop what an outage holds for these peers. They are not to be sent to again."""
        with self._turn:
            self._stranded = [message for message in self._stranded if message[0] not in peers]

    def _is_out(self) -> bool:
        return 0 < self._up_bps <= OUTAGE_BPS

    def send(self, peer: str, header: DataHeader, payload: memoryview | bytes = b"", apart: bool = False) -> float:
        """Send one message now, by the connection `apart` if it is copied; returns its time (monotonic seconds)."""
        with self._turn if self._up_bps else _AT_ONCE:
            now = time.monotonic()
            if self._is_out():
                self._stranded.append((peer, header, bytes(payload), apart))
                return now
            departs = departed = now
            if self._up_bps:
                departs = max(now, self._uplink.free_s)
                departed = self._uplink.pass_through(now, now, wire_bytes(len(payload)), self._up_bps)
            stamped = msgspec.structs.replace(
                header, sender=self.device, sent_s=now, departs_s=departs, departed_s=departed
            )
            send = self._plane.send_apart if apart else self._plane.send
            send(peer, stamped, payload)
            return now
