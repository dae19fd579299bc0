"""What kind of host this is, and how fast its memory is."""

from __future__ import annotations

import functools
import time
from pathlib import Path

STREAM_BYTES = 256 * 2**20
STREAM_ROUNDS = 5
STREAM_WIDTH = 4096
SWITCH_INTERVAL_S = 50e-6
GUEST_SWITCH_INTERVAL_S = 500e-6


@functools.cache
def in_user_mode_linux() -> bool:
    """Whether this kernel is the sandbox's, which has one core and timers that are 0.1 ms late."""
    return "vendor_id\t: User Mode Linux" in Path("/proc/cpuinfo").read_text()


def switch_interval_s() -> float:
    """How long a thread waits for Python's interpreter before it asks for it; see `sys.setswitchinterval`.

    It must be longer than a switch of threads takes. In User-Mode Linux 50 µs are not: two threads of a worker passed
    the interpreter to and fro for seconds and got nothing done.
    """
    return GUEST_SWITCH_INTERVAL_S if in_user_mode_linux() else SWITCH_INTERVAL_S


def streaming_Bps(size: int = STREAM_BYTES) -> float:
    """Bytes per second that one core reads in the decoder's products with a float32 matrix (best of five)."""
    import numpy as np

    from testbed.decoder.kernels import Packed, matmul

    rows = size // 4 // STREAM_WIDTH
    matrix = Packed("float32", rows, STREAM_WIDTH, np.ones(rows * STREAM_WIDTH, np.float32).view(np.uint8))
    vector = np.ones((1, STREAM_WIDTH), np.float32)
    best = float("inf")
    for _ in range(STREAM_ROUNDS):
        started = time.perf_counter()
        matmul(matrix, vector)
        best = min(best, time.perf_counter() - started)
    return size / best
