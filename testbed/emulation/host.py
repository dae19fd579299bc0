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


def streaming_Bps(size: int = STREAM_BYTES, name: str = "float32") -> float:
    """Bytes per second that one core reads in the decoder's products with a matrix of this format (best of five)."""
    import numpy as np

    from testbed.decoder.kernels import Packed, matmul
    from testbed.formats import packed_bytes

    rows = size // packed_bytes(name, 1, STREAM_WIDTH)
    packed = np.zeros(packed_bytes(name, rows, STREAM_WIDTH), np.uint8)
    packed[:] = 1  # so that every page is there
    matrix, vector = Packed(name, rows, STREAM_WIDTH, packed), np.ones((1, STREAM_WIDTH), np.float32)
    best = float("inf")
    for _ in range(STREAM_ROUNDS):
        started = time.perf_counter()
        matmul(matrix, vector)
        best = min(best, time.perf_counter() - started)
    return len(packed) / best
