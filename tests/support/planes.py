"""What a test gives a data plane, and takes from it: the next message, or whether there is one."""

from __future__ import annotations

import time
from collections import deque
from weakref import WeakKeyDictionary

from testbed.transport.data import Activation, DataHeader, DataPlane, Received

_TAKEN: WeakKeyDictionary[DataPlane, deque[Received]] = WeakKeyDictionary()  # and not yet given to a test


def has_message(plane: DataPlane, timeout_s: float) -> bool:
    """Whether a message is there, or comes within the timeout."""
    taken, deadline = _TAKEN.setdefault(plane, deque()), time.monotonic() + timeout_s
    while not taken and (left := deadline - time.monotonic()) > 0:
        taken.extend(plane.take(left))
    return bool(taken)


def receive(plane: DataPlane) -> tuple[DataHeader, memoryview]:
    """The next message, which must come within 10 s."""
    assert has_message(plane, 10.0), "no message came"
    header, payload, _ = _TAKEN[plane].popleft()
    return header, payload


def activation(sender: str = "a") -> Activation:
    """A message as a run sends it."""
    now = time.monotonic()
    return Activation(sender, now, now, now, 3, 40, 11, "x", 300, 1, 0.0123, 0.0045)
