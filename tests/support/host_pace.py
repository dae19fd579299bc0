"""Whether this host lets time be judged now: such tests are tried again, and say nothing while its memory is slow.

Others may take a host for some seconds, which no process here can see. What is asserted within `judging_time` is then
tried again, and nothing else ever is: not bits, nor clean-up, nor an order of messages.

A virtual machine shares memory bandwidth with neighbours that it cannot see: a core may stream 10 GB/s in the morning
and 0.5 GB/s in the afternoon, with no other process running. Then emulated devices are late, whatever our code does.
Such a failure is reported as expected, with the measured figure, and never as passed.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

RERUNS, PAUSE_S = 3, 10.0
LEAST_BPS = 8e9  # one core's, summing floats on small pages; about a third of what the emulation was made with
_SIZE = 64 * 2**20  # bytes, more than a core's own caches hold
_ROUNDS = 7
_excused: list[str] = []  # the tests so far


class Untimely(AssertionError):
    """What was asserted of time does not hold, as happens while others use this host."""


AGAIN = pytest.mark.flaky(reruns=RERUNS, reruns_delay=PAUSE_S, only_rerun=Untimely)


@contextmanager
def judging_time() -> Iterator[None]:
    """What is asserted in this block judges time: where it does not hold, a test that is marked `AGAIN` is repeated."""
    try:
        yield
    except AssertionError as error:
        raise Untimely(str(error)) from error


def try_again(item: pytest.Item) -> None:
    """Mark a test `AGAIN`, with its time limit for each attempt instead of for all."""
    limit = item.get_closest_marker("timeout")
    seconds = limit.args[0] if limit is not None else float(item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(seconds, func_only=True), append=False)
    item.add_marker(AGAIN)


def streaming_Bps() -> float:
    """The bytes per second that one core reads from memory now: the median of seven passes over private pages."""
    with mmap.mmap(-1, _SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        pages.write(bytes(_SIZE))
        values = np.frombuffer(pages, np.float32)
        seconds = []
        for _ in range(_ROUNDS):
            begun = time.perf_counter()
            values.sum()
            seconds.append(time.perf_counter() - begun)
        del values
    return _SIZE / sorted(seconds)[_ROUNDS // 2]


def excuse_on_a_slow_host(item: Any, call: pytest.CallInfo[None], report: pytest.TestReport | Any) -> None:
    """Turn the last of a test's failures to be in time into an expected one if this host's memory is now too slow.

    Where another test was excused before, the first failure does: a host that stays slow would repeat them all.
    """
    if call.excinfo is None or not call.excinfo.errisinstance(Untimely):
        return
    if item.execution_count <= RERUNS and not _excused:
        return
    streams = streaming_Bps()
    if streams < LEAST_BPS:
        _excused.append(item.nodeid)
        report.outcome = "skipped"
        report.wasxfail = (
            f"judges time, and this host streams {streams / 1e9:.1f} GB/s now, under {LEAST_BPS / 1e9:g}: "
            f"it failed with {call.excinfo.exconly()}"
        )
