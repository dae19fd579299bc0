"""Widens stored weights to float32, as ggml's reference code does, so that the bits are its own.

The layouts of blocks and their arithmetic are those of ggml-quants.c (`dequantize_row_*`). Formats that a device can
hold are widened here only on the way into another format; its products widen inside the kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from testbed.decoder.stored import STORED_FORMATS

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_LOW_HIGH = np.array([[0], [4]], np.uint8)  # shifts of the two halves of a byte, before a last axis
_PAIRS = np.array([[0], [2], [4], [6]], np.uint8)
_EXPONENTS = {
    "float16": (np.uint16, 0x7C00), "bfloat16": (np.uint16, 0x7F80), "float32": (np.uint32, 0x7F800000),
    "float64": (np.uint64, 0x7FF0000000000000),
}  # fmt: skip
_BITS = np.arange(8, dtype=np.uint8)[:, None]
# ggml's kvalues_iq4nl: sixteen steps that are closer together near zero.
IQ4_NL_STEPS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def widen(stored_format: str, rows: Bytes) -> Floats:
    """The values (rows, columns) of some stored rows of whole blocks (rows, bytes)."""
    one = STORED_FORMATS[stored_format]
    blocks = np.ascontiguousarray(rows).reshape(-1, one.block_bytes)
    with np.errstate(over="ignore"):  # of a float64, or of the scales of a damaged file
        values = _BLOCKS[stored_format](blocks).reshape(rows.shape[0], -1)
    return np.require(values, requirements="A")  # in a file, numbers may begin at any address


def has_non_numbers(form: str, rows: Bytes) -> bool:
    """Whether any value in rows (rows, bytes) of a format is infinite or NaN; of a block, its scales tell."""
    if not rows.size:
        return False
    if form in _EXPONENTS:
        kind, mask = _EXPONENTS[form]
        bits = np.ascontiguousarray(rows).view(kind)
        return bool(((bits & kind(mask)) == kind(mask)).any())
    blocks = rows.reshape(-1, STORED_FORMATS[form].block_bytes)
    high = blocks[:, [at + 1 for at in SCALES[form]]]  # of a float16: its sign, exponent and two bits more
    return bool(((high & np.uint8(0x7C)) == np.uint8(0x7C)).any())


def _bfloat16(numbers: Bytes) -> Floats:
    return (numbers.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


# --- blocks of 32 ----------------------------------------------------------------------------------------


def _scale(blocks: Bytes, at: int) -> Floats:
    """The float16 at an offset of every block: (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def nibbles(packed: Bytes, run: int) -> Bytes:
    """Four bits each: of every `run` bytes first the low halves, then the high ones: (blocks, values)."""
    parts = packed.reshape(len(packed), -1, 1, run) >> _LOW_HIGH
    return (parts & np.uint8(15)).reshape(len(packed), -1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """The fifth bits of 32 values, which lie in four bytes, in their place: (blocks, 32)."""
    return np.unpackbits(np.ascontiguousarray(blocks[:, at : at + 4]), axis=1, bitorder="little") << np.uint8(4)


def _q8_0(blocks: Bytes) -> Floats:
    return _scale(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _scale(blocks, 0) * (nibbles(blocks[:, 2:], 16).astype(np.float32) - np.float32(8))


def _q4_1(blocks: Bytes) -> Floats:
    return _scale(blocks, 0) * nibbles(blocks[:, 4:], 16).astype(np.float32) + _scale(blocks, 2)


def q5_0_quants(blocks: Bytes) -> Bytes:
    """The values of q5_0 blocks before 16 is subtracted: (blocks, 32)."""
    return nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    return _scale(blocks, 0) * (q5_0_quants(blocks).astype(np.float32) - np.float32(16))


def _q5_1(blocks: Bytes) -> Floats:
    quants = nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks, 4)
    return _scale(blocks, 0) * quants.astype(np.float32) + _scale(blocks, 2)


def _iq4_nl(blocks: Bytes) -> Floats:
    return _scale(blocks, 0) * IQ4_NL_STEPS[nibbles(blocks[:, 2:], 16)].astype(np.float32)


# --- superblocks of 256, with scales of their parts --------------------------------------------------------


def _q2_k(blocks: Bytes) -> Floats:
    scales, quants = blocks[:, :16], blocks[:, 16:80]
    step = _scale(blocks, 80) * (scales & np.uint8(15)).astype(np.float32)  # (blocks, 16)
    low = _scale(blocks, 82) * (scales >> np.uint8(4)).astype(np.float32)
    values = ((quants.reshape(-1, 2, 1, 32) >> _PAIRS) & np.uint8(3)).reshape(-1, 16, 16).astype(np.float32)
    return step[:, :, None] * values - low[:, :, None]


def _q3_k(blocks: Bytes) -> Floats:
    mask, quants, packed = blocks[:, :32], blocks[:, 32:96], blocks[:, 96:108]
    low = nibbles(packed[:, :8], 8)  # of the sixteen scales of six bits
    high = ((packed[:, 8:].reshape(-1, 1, 4) >> _PAIRS) & np.uint8(3)).reshape(-1, 16)
    scales = (low | high << np.uint8(4)).astype(np.float32) - np.float32(32)
    twos = ((quants.reshape(-1, 2, 1, 32) >> _PAIRS) & np.uint8(3)).reshape(-1, 16, 16)
    third = ((mask.reshape(-1, 1, 32) >> _BITS) & np.uint8(1)).reshape(-1, 16, 16)
    values = (twos | third << np.uint8(2)).astype(np.float32) - np.float32(4)
    return (_scale(blocks, 108) * scales)[:, :, None] * values


def _steps_and_lows(blocks: Bytes) -> tuple[Floats, Floats]:
    """The scales and minima of the eight parts of a q4_k or q5_k block, each (blocks, 8, 1)."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    two, six = np.uint8(0x30), np.uint8(0x3F)
    scales = np.hstack([first & six, (rest & np.uint8(15)) | (first >> np.uint8(2)) & two]).astype(np.float32)
    minima = np.hstack([second & six, (rest >> np.uint8(4)) | (second >> np.uint8(2)) & two]).astype(np.float32)
    return (_scale(blocks, 0) * scales)[:, :, None], (_scale(blocks, 2) * minima)[:, :, None]


def _q4_k(blocks: Bytes) -> Floats:
    step, low = _steps_and_lows(blocks)
    return step * nibbles(blocks[:, 16:], 32).reshape(-1, 8, 32).astype(np.float32) - low


def _q5_k(blocks: Bytes) -> Floats:
    step, low = _steps_and_lows(blocks)
    fifth = ((blocks[:, 16:48].reshape(-1, 1, 32) >> _BITS) & np.uint8(1)) << np.uint8(4)
    values = nibbles(blocks[:, 48:], 32).reshape(-1, 8, 32) | fifth
    return step * values.astype(np.float32) - low


def _q6_k(blocks: Bytes) -> Floats:
    low = nibbles(blocks[:, :128], 64).reshape(-1, 8, 32)
    high = ((blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _PAIRS) & np.uint8(3)).reshape(-1, 8, 32)
    values = ((low | high << np.uint8(4)).astype(np.float32) - np.float32(32)).reshape(-1, 16, 16)
    steps = _scale(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return steps[:, :, None] * values


_BLOCKS: Mapping[str, Callable[[Bytes], Floats]] = {
    "float64": lambda numbers: numbers.view(np.float64).astype(np.float32),
    "float32": lambda numbers: numbers.view(np.float32),
    "float16": lambda numbers: numbers.view(np.float16).astype(np.float32),
    "bfloat16": _bfloat16,
    "q8_0": _q8_0, "q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "iq4_nl": _iq4_nl,
    "q2_k": _q2_k, "q3_k": _q3_k, "q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k,
}  # fmt: skip
SCALES: Mapping[str, tuple[int, ...]] = {
    "q8_0": (0,), "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "iq4_nl": (0,),
    "q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
}  # fmt: skip
"""The offsets of the float16 scales and minima in a block."""
