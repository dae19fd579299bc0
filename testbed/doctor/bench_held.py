"""How exactly a receiver holds messages for a delay, where no netem adds it (`delay: transport`).

A worker's own outbox and inbox carry empty messages over TCP on this host, with the delay and without. What the delay
adds is what a run's messages meet.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from testbed.doctor.bench_delay import DELAY_COUNT, DelayMeasured, delay_measured, nearest

_SPACING_S = 2e-3
_HOST = "tcp://127.0.0.1:*"


def measure_held(asked_s: float) -> DelayMeasured:
    """Send single messages to a receiver that holds them, and to one that does not; the nearest of several attempts."""
    return nearest(lambda: delay_measured(asked_s, statistics.median(_times(0.0)), _times(asked_s)))


def _times(delay_s: float) -> list[float]:
    """Seconds from the sending of each message until the receiver may use it, in ascending order."""
    from testbed.transport.data import DataPlane, PingFrame
    from testbed.transport.messages import PathView
    from testbed.worker.inbox import Inbox
    from testbed.worker.libc import use_precise_timers
    from testbed.worker.outbox import Outbox

    use_precise_timers()
    with ExitStack() as ends:
        planes = {name: DataPlane(_HOST) for name in ("x", "y")}
        for plane in planes.values():
            ends.callback(plane.close)
        planes["x"].know({"y": planes["y"].address})
        outbox, inbox = Outbox("x", planes["x"]), Inbox(None, planes["y"])  # type: ignore[arg-type]
        inbox.set_paths({"x": PathView(delay_s, 0.0)})
        found = []
        for number in range(DELAY_COUNT + 1):
            time.sleep(_SPACING_S)
            sent_s = outbox.send("y", PingFrame("", 0.0, 0.0, 0.0, 1, False))
            inbox.get()
            if number:  # the first one waits for the connection
                found.append(time.monotonic() - sent_s)
    return sorted(found)
