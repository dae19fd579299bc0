"""Paced compute: the real operation, then a wait until the emulated device would have finished."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from testbed.placement.blocks import operation_seconds

Result = TypeVar("Result")

_PR_SET_TIMERSLACK = 29  # prctl(2)
SPIN_S = 60e-6  # the last stretch of a wait is spun: waking from a sleep takes about that long
_OVERRUN_TOLERANCE_S = 100e-6  # lateness the host cannot be blamed for: shorter than a wake-up
_CHAIN_S = 500e-6  # between two operations of a busy device there is no more of our own work than this


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
    """Runs operations at the pace of one emulated device; `paced=False` runs them as fast as the host can."""

    def __init__(self, paced: bool, dilation: float) -> None:
        self._paced = paced
        self._dilation = dilation
        self._last_end_s = 0.0
        self.streaming_Bps = 1e12
        self.compute_flops = 1e15

    def run(
        self, operation: Callable[[], Result], costs: list[tuple[float, float]], ready_s: float
    ) -> tuple[Result, Timing]:
        """Run one operation made of blocks with these (FLOPs, bytes read) costs, one after another.

        `ready_s` is when its last input was there. An operation whose inputs were there when the one before
        it ended counts from that end, so that our time between two blocks does not make a slower device.
        """
        started = time.monotonic()
        if self._paced and ready_s <= self._last_end_s and started - self._last_end_s < _CHAIN_S:
            started = self._last_end_s
        due = sum(operation_seconds(f, b, self.compute_flops, self.streaming_Bps) for f, b in costs) * self._dilation
        result = operation()
        ended = time.monotonic()
        overrun = False
        if self._paced:
            target = started + due
            overrun = ended > target + _OVERRUN_TOLERANCE_S
            if ended < target:
                _wait_until(target)
                ended = target
            self._last_end_s = ended
        return result, Timing(started, ended, due, overrun)


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
