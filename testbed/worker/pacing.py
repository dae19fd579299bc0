"""Paced compute: runs the real operation, then waits until the emulated device would have finished it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from testbed.device_model import PACED_FROM_S, PLAIN, DeviceModel
from testbed.placement.blocks import operation_seconds
from testbed.worker.core_waits import CoreWaits
from testbed.worker.scheduling import Precedence

Result = TypeVar("Result")

SPIN_S = 60e-6  # the last stretch of a wait is spun, because waking from a sleep takes about that long
_OVERRUN_TOLERANCE_S = 100e-6  # lateness that does not count: it is shorter than a wake-up
# From an operation's last input to its start, less what this thread waited for a core of the host. Longer means that
# the worker was paused, or did something else meanwhile.
_LATE_MOST_S = 2e-3


class Timing(NamedTuple):
    """When an operation ran, in wall seconds, and how long it should take by the device model."""

    start_s: float
    end_s: float
    due_s: float
    overrun: bool  # whether the host was too slow for the emulated device


class Pacer:
    """Runs operations at the pace of one emulated device; with `paced=False`, as fast as the host can.

    From the real end of a paced operation until `stand_back`, this thread has its `precedence`.

    A device sleeps through most of an operation's time, so this thread may wait for a core of the host and still end
    the operation when the device would. `made_up_s` is how long it waited in operations that ended in time.
    """

    def __init__(
        self, paced: bool, dilation: float, precedence: Precedence | None = None, model: DeviceModel = PLAIN
    ) -> None:
        self.model = model  # with which its operations are counted
        self._paced = paced
        self._dilation = dilation
        self._precedence = precedence
        self._last_end_s = 0.0
        self._waits = CoreWaits() if paced else None
        self._waited_s = self._waits.seconds() if self._waits else 0.0
        self.made_up_s = 0.0
        self.operations = 0  # so far
        self.streaming_Bps = 1e12
        self.compute_flops = 1e15

    def run(
        self, operation: Callable[[], Result], costs: list[tuple[float, float]], ready_s: float, stays: bool = False
    ) -> tuple[Result, Timing]:
        """Run one operation made of blocks with these (FLOPs, bytes read) costs, one after another.

        FLOPs and bytes are counted with this device's model (`Cost.counted`).
        `ready_s` is when its last input arrived. A device would begin then, or when its last operation ended, and so
        the operation is due from then on. The time that we take to wake up and to unpack does not slow the device
        down, as long as the operation leaves enough time to make up for it. One that is too short for that, and whose
        result `stays` on this device, is not waited for: it is told as the device would run it, and the next one makes
        up for its lateness too.
        """
        queued_s = self._queued_s()
        self.operations += 1
        began = time.monotonic()
        rates = self.compute_flops, self.streaming_Bps, self.model.barrier_s
        due = sum(operation_seconds(flops, size, *rates) for flops, size in costs) * self._dilation
        self._compute()
        result = operation()
        ended = time.monotonic()
        if not self._paced:
            return result, Timing(began, ended, due, False)
        started = max(ready_s, self._last_end_s)
        held_up = began - started - queued_s > _LATE_MOST_S
        if held_up:
            started = began
        if stays and due < PACED_FROM_S:
            self._last_end_s = started + due
            return result, Timing(started, started + due, due, False)
        if self._precedence is not None:
            self._precedence.take()
        if ended <= started + due:
            ended = started + due
            _wait_until(ended)
            in_time = not held_up and time.monotonic() - ended <= _OVERRUN_TOLERANCE_S
        else:  # lateness that pacing cannot absorb is not charged to the device
            started = min(began, ended - due)
            in_time = False
        self._note_waits(in_time)
        self._last_end_s = ended
        return result, Timing(started, ended, due, ended - started > due + _OVERRUN_TOLERANCE_S)

    def stand_back(self) -> None:
        """Give up the precedence, because all results have been sent, and wait for input."""
        self._compute()
        self._note_waits(made_up=False)

    def _compute(self) -> None:
        if self._precedence is not None:
            self._precedence.give_up()

    def _queued_s(self) -> float:
        """How long this thread has waited for a core since the last look at it."""
        return self._waits.seconds() - self._waited_s if self._waits else 0.0

    def _note_waits(self, made_up: bool) -> None:
        queued_s = self._queued_s()
        self._waited_s += queued_s
        if made_up:
            self.made_up_s += queued_s

    def lateness(self, count: int, seconds: float) -> list[float]:
        """How late `count` empty operations of `seconds` wall seconds each end here: the floor of pacing."""
        late = []
        for _ in range(count):
            target = time.monotonic() + seconds
            _wait_until(target)
            late.append(time.monotonic() - target)
        return late


def _wait_until(target: float) -> None:
    while (left := target - time.monotonic()) > 0:
        if left > SPIN_S:
            time.sleep(left - SPIN_S)
