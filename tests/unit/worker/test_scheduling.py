"""A paced worker runs before other processes, and to end an operation and to send before other workers."""

from __future__ import annotations

import os
import threading

import pytest

from testbed.worker.pacing import Pacer
from testbed.worker.scheduling import Precedence

PERMITTED = os.geteuid() == 0


def priorities(paced: bool) -> list[int]:
    """The real-time priority in an operation, after it, and after standing back; in a thread of its own."""
    found: list[int] = []

    def look() -> None:
        found.append(os.sched_getparam(0).sched_priority)

    def work() -> None:
        pacer = Pacer(paced, 1.0, Precedence() if paced else None)
        for _ in range(2):
            pacer.run(look, [(0.0, 1.0)], 0.0)
            look()
        pacer.stand_back()
        look()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found


@pytest.mark.skipif(not PERMITTED, reason="real-time priority needs root")
def test_a_paced_thread_computes_before_other_processes_and_ends_before_others_arithmetic() -> None:
    computing, ending, *rest = priorities(paced=True)
    assert 0 < computing < ending
    assert rest == [computing, ending, computing]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_native_compute_takes_turns_like_everyone() -> None:
    assert set(priorities(paced=False)) == {0}
