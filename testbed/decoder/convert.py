"""Puts stored rows into the format in which a block holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from testbed.decoder.kernels import quantise
from testbed.decoder.stored import STORED_FORMATS
from testbed.decoder.widen import IQ4_NL_STEPS, Bytes, nibbles, q5_0_quants, widen


def convert(stored: str, held: str, rows: Bytes) -> Bytes:
    """Stored rows of whole blocks (rows, bytes) in the format of a block in memory (rows, bytes).

    Raises OverflowError if a number becomes infinite.
    """
    if stored == held:
        return rows
    exact = _EXACT.get((stored, held))
    if exact is not None:
        blocks = np.ascontiguousarray(rows).reshape(-1, STORED_FORMATS[stored].block_bytes)
        return exact(blocks).reshape(len(rows), -1)
    values = widen(stored, rows)
    if stored == "float64" and not np.isfinite(values).all():
        raise OverflowError("a number of 64 bits is too large for float32")
    return np.frombuffer(quantise(held, values), np.uint8).reshape(len(rows), -1)


def _q4_0_as_q4_1(blocks: Bytes) -> Bytes:
    scale = blocks[:, :2].copy()
    with np.errstate(over="ignore"):
        minimum = scale.view(np.float16) * np.float16(-8)
    if not np.isfinite(minimum).all():
        raise OverflowError("a minimum is too large for float16")
    return np.hstack([scale, minimum.view(np.uint8), blocks[:, 2:]])


def _q4_0_as_q8_0(blocks: Bytes) -> Bytes:
    return np.hstack([blocks[:, :2], nibbles(blocks[:, 2:], 16) - np.uint8(8)])  # modulo 256, as int8 has it


def _q5_0_as_q8_0(blocks: Bytes) -> Bytes:
    return np.hstack([blocks[:, :2], q5_0_quants(blocks) - np.uint8(16)])


def _iq4_nl_as_q8_0(blocks: Bytes) -> Bytes:
    return np.hstack([blocks[:, :2], IQ4_NL_STEPS[nibbles(blocks[:, 2:], 16)].view(np.uint8)])


_EXACT: Mapping[tuple[str, str], Callable[[Bytes], Bytes]] = {
    ("q4_0", "q4_1"): _q4_0_as_q4_1,
    ("q4_0", "q8_0"): _q4_0_as_q8_0,
    ("q5_0", "q8_0"): _q5_0_as_q8_0,
    ("iq4_nl", "q8_0"): _iq4_nl_as_q8_0,
}
"""Conversions between blocks; going through float32 would choose another scale and lose something."""
