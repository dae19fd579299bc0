"""A worker's heartbeats: signs of life by a thread of its own, with how far the main thread has come."""

from __future__ import annotations

import threading
import time

from testbed.transport.beats import HEARTBEAT_S, BeatLine
from testbed.worker.pacing import Pacer
from testbed.worker.scheduling import put_first


class Pulse:
    """How far the main thread has come. It alone writes here."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self.deliveries = 0
        self.waiting = False  # for input, so that it does nothing for a good reason

    @property
    def operations(self) -> int:
        """What it has taken in, and what it has computed."""
        return self.deliveries + self._pacer.operations


def begin_heartbeats(line: BeatLine, pulse: Pulse) -> None:
    """Send heartbeats to the controller from now on to the end of the process."""
    threading.Thread(target=_beat, args=(line, pulse), name="heartbeat", daemon=True).start()


def _beat(line: BeatLine, pulse: Pulse) -> None:
    put_first(threading.get_native_id())  # else a busy host could make a living device look dead
    while True:
        line.send(pulse.operations, pulse.waiting)
        time.sleep(HEARTBEAT_S)
