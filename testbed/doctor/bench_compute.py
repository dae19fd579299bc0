"""How well this host keeps an emulated device's pace: real operations, paced, and timed from outside the pacer.

It knows one device's rates and nothing of models. The caller judges whether the result is good enough for a run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

DUE_S = (1.2e-3, 3e-3, 10e-3)  # how long the emulated device takes for a block; accuracy is promised from 1 ms
EMULATED_BPS = 3e9  # as the fastest boards of the catalogue stream in float32
EMULATED_FLOPS = 1e12  # so high that streaming decides, as on most boards
BLOCKS = 100  # of each length
ATTEMPTS = 5
PAUSE_S = 0.5  # before the second attempt, and twice as long before each further one
MEAN_TOLERANCE = 0.02
P95_TOLERANCE = 0.05
WIDTH = 768  # of a matrix row, GPT-2's


@dataclass(frozen=True)
class ComputeMeasured:
    """Blocks of one length, one after another. Errors are shares of what the device model says."""

    due_s: float
    count: int
    mean_error: float  # of the mean; negative if too fast
    p95_error: float  # the 95th percentile of the blocks' absolute errors

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerances."""
        return abs(self.mean_error) <= MEAN_TOLERANCE and self.p95_error <= P95_TOLERANCE


def measure_compute(due_s: float, count: int = BLOCKS, attempts: int = ATTEMPTS) -> ComputeMeasured:
    """Pace `count` matrix-vector products that take the emulated device `due_s` each; the best of several attempts.

    One thread. Other work on the host makes blocks late and never early; pauses let a burst of it pass.
    """
    found = _measure_compute(due_s, count)
    for failed in range(attempts - 1):
        if found.ok:
            break
        time.sleep(PAUSE_S * 2**failed)
        found = min(found, _measure_compute(due_s, count), key=lambda each: each.p95_error)
    return found


def _measure_compute(due_s: float, count: int) -> ComputeMeasured:
    import numpy as np

    from testbed.decoder.kernels import Packed, matmul
    from testbed.worker.libc import use_precise_timers
    from testbed.worker.pacing import Pacer

    use_precise_timers()
    rows = max(1, round(due_s * EMULATED_BPS / (4 * WIDTH)))
    matrix = Packed("float32", rows, WIDTH, np.ones(rows * WIDTH, np.float32).view(np.uint8))
    vector = np.ones((1, WIDTH), np.float32)
    cost = (2.0 * rows * WIDTH, 4.0 * rows * WIDTH)
    pacer = Pacer(True, 1.0)
    pacer.streaming_Bps, pacer.compute_flops = EMULATED_BPS, EMULATED_FLOPS
    pacer.run(lambda: matmul(matrix, vector), [cost], 0.0)  # warms pages and caches
    ended_s = [time.monotonic()]
    for _ in range(count):
        pacer.run(lambda: matmul(matrix, vector), [cost], 0.0)
        ended_s.append(time.monotonic())
    return compare([end - start for start, end in pairwise(ended_s)], cost[1] / EMULATED_BPS)


def compare(times_s: list[float], due_s: float) -> ComputeMeasured:
    """Block times against what the device model says."""
    errors = sorted(abs(time_s / due_s - 1) for time_s in times_s)
    mean = sum(times_s) / len(times_s)
    return ComputeMeasured(due_s, len(times_s), mean / due_s - 1, errors[int(0.95 * (len(errors) - 1))])
