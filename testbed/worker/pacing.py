"""Paced compute: the real operation, then a wait until the emulated device would have finished."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from testbed.placement.blocks import operation_seconds
from testbed.worker.scheduling import Precedence

Result = TypeVar("Result")

_PR_SET_TIMERSLACK = 29  # prctl(2)
SPIN_S = 60e-6  # the last stretch of a wait is spun: waking from a sleep takes about that long
_OVERRUN_TOLERANCE_S = 100e-6  # lateness the host cannot be blamed for: shorter than a wake-up
_LATE_MOST_S = 2e-3  # from an operation's last input to its start: more than we and the host's scheduler need


def use_precise_timers() -> None:
    """Ask the kernel for sleeps that end on time (timer slack 1 ns instead of 50 us)."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


@dataclass(frozen=True)
class Timing:
    """When an operation ran, wall seconds, and how long the device model says it takes."""

    start_s: float
    end_s: float
    due_s: float
    overrun: bool  # the host was too slow for the emulated device


class Pacer:
    """Runs operations at the pace of one emulated device; `paced=False` runs them as fast as the host can.

    From the real end of a paced one until `stand_back`, this thread has its `precedence`.
    """

    def __init__(self, paced: bool, dilation: float, precedence: Precedence | None = None) -> None:
        self._paced = paced
        self._dilation = dilation
        self._precedence = precedence
        self._last_end_s = 0.0
        self.streaming_Bps = 1e12
        self.compute_flops = 1e15

    def run(
        self, operation: Callable[[], Result], costs: list[tuple[float, float]], ready_s: float
    ) -> tuple[Result, Timing]:
        """Run one operation made of blocks with these (FLOPs, bytes read) costs, one after another.

        `ready_s` is when its last input was there. A device would begin at once, or when the operation before has
        ended, so the operation is due from then on: what it takes us to wake up and to unpack makes no slower
        device, as long as the operation itself leaves the time to make up for it.
        """
        began = time.monotonic()
        due = sum(operation_seconds(f, b, self.compute_flops, self.streaming_Bps) for f, b in costs) * self._dilation
        self.stand_back()
        result = operation()
        ended = time.monotonic()
        if not self._paced:
            return result, Timing(began, ended, due, False)
        if self._precedence is not None:
            self._precedence.take()
        started = max(ready_s, self._last_end_s)
        if began - started > _LATE_MOST_S:  # it was paused, or did something else meanwhile
            started = began
        if ended <= started + due:
            ended = started + due
            _wait_until(ended)
        else:  # what could not be made up for is nobody's computing
            started = min(began, ended - due)
        self._last_end_s = ended
        return result, Timing(started, ended, due, ended - started > due + _OVERRUN_TOLERANCE_S)

    def stand_back(self) -> None:
        """Take turns with others again: all that was computed has been sent."""
        if self._precedence is not None:
            self._precedence.give_up()

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
