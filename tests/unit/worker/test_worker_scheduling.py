"""A worker's thread runs first to end an operation on time and to send, and takes turns while it computes."""

from __future__ import annotations

import os
import threading

import pytest

from testbed.worker.pacing import Pacer
from testbed.worker.scheduling import Precedence

PERMITTED = os.geteuid() == 0


def policies(paced: bool) -> list[int]:
    """The scheduling policy in an operation, after it, and after standing back; in a thread of its own."""
    found: list[int] = []

    def work() -> None:
        pacer = Pacer(paced, 1.0, Precedence())
        for _ in range(2):
            pacer.run(lambda: found.append(os.sched_getscheduler(0)), [(0.0, 1.0)], 0.0)
            found.append(os.sched_getscheduler(0))
        pacer.stand_back()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found


@pytest.mark.skipif(not PERMITTED, reason="real-time priority needs root")
def test_a_paced_thread_runs_first_except_while_it_computes() -> None:
    assert policies(paced=True) == [os.SCHED_OTHER, os.SCHED_FIFO, os.SCHED_OTHER, os.SCHED_FIFO, os.SCHED_OTHER]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_native_compute_takes_turns_like_everyone() -> None:
    assert set(policies(paced=False)) == {os.SCHED_OTHER}
