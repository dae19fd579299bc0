"""Conversions and quantisers have the bits of numpy and gguf; exponentials and activations are near the true ones."""

from __future__ import annotations

import math

import kernel_model as model
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from kernel_model import Floats

from testbed.decoder import kernels
from testbed.formats import FORMATS, PLAIN

NAMES = {
    "float32": "F32", "bfloat16": "BF16", "float16": "F16", "q8_0": "Q8_0", "q4_0": "Q4_0", "q4_1": "Q4_1",
}  # fmt: skip
HALVES = np.arange(2**16, dtype=np.uint16)


def type_of(format: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[NAMES[format]]


def every_float(step: int) -> Floats:
    """Each `step`-th float32 that is a number, subnormal ones and infinities among them."""
    found = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return found[~np.isnan(found)]


@pytest.mark.parametrize("format", FORMATS)
@given(st.integers(0, 2**32), st.integers(-8, 4), st.integers(0, 3))
def test_a_matrix_is_packed_and_widened_as_gguf_does_it(format: str, seed: int, power: int, zeros: int) -> None:
    x = (np.random.default_rng(seed).normal(size=(4, 96)) * 10.0**power).astype(np.float32)
    x[:zeros] = 0
    x[3, :40] = x[3, 0]
    packed = kernels.quantise(format, x)
    assert packed == quants.quantize(x, type_of(format)).tobytes()
    read = np.frombuffer(packed, np.uint8).reshape(4, -1)
    wide = kernels.rows_of(kernels.Packed(format, 4, 96, packed), np.arange(4))
    assert wide.tobytes() == np.ascontiguousarray(quants.dequantize(read, type_of(format)), np.float32).tobytes()


@pytest.mark.parametrize(("format", "largest"), [("q8_0", 127.0), ("q4_0", -8.0), ("q4_1", 15.0)])
def test_numbers_half_way_between_two_quanta_are_rounded_as_gguf_does_it(format: str, largest: float) -> None:
    x = np.arange(32, dtype=np.float32)[None] % 7 + np.float32(0.5)
    x[0, 16:24] *= -1 if format != "q4_1" else 1
    x[0, :2] = largest, 0  # so that the scale is 1
    assert kernels.quantise(format, x) == quants.quantize(x, type_of(format)).tobytes()


def test_every_float16_is_widened_exactly() -> None:
    numbers = HALVES[~np.isnan(HALVES.view(np.float16))]
    wide = kernels.unpack("float16", numbers.tobytes(), 1, numbers.size)
    assert wide.tobytes() == numbers.view(np.float16).astype(np.float32).tobytes()
    assert np.isnan(kernels.unpack("float16", HALVES[-5:].tobytes(), 1, 5)).all()


def test_every_bfloat16_is_widened_exactly() -> None:
    wide = kernels.unpack("bfloat16", HALVES.tobytes(), 1, HALVES.size)
    assert wide.tobytes() == (HALVES.astype(np.uint32) << 16).tobytes()


def test_numbers_are_narrowed_to_the_nearest_float16_and_ties_to_even() -> None:
    near = HALVES.view(np.float16).astype(np.float32)
    near = near[np.abs(near) < 65504]
    ties = (near[:, None] + np.float32(2.0**-25) * np.float32([-1, 0, 1])).ravel()
    x = np.concatenate([every_float(9973), ties, np.float32([65519.99, -65519.99, 65504])])
    x = x[(np.abs(x) < 65520) | np.isinf(x)]
    assert kernels.pack("float16", x) == x.astype(np.float16).tobytes()


def test_numbers_are_narrowed_to_the_nearest_bfloat16() -> None:
    x = every_float(9973)
    x = x[(np.abs(x) < 3.38e38) | np.isinf(x)]
    assert kernels.pack("bfloat16", x) == quants.BF16.quantize_blocks(x[None]).tobytes()
    nan = np.uint32([0x7F800001, 0xFFFFFFFF]).view(np.float32)
    assert np.isnan(kernels.unpack("bfloat16", kernels.pack("bfloat16", nan), 1, 2)).all()
    assert np.isnan(kernels.unpack("float16", kernels.pack("float16", nan), 1, 2)).all()


@pytest.mark.parametrize(("format", "largest", "above"), [("float16", 65519.0, 65520.0), ("bfloat16", 3.38e38, 3.4e38)])
def test_a_number_that_would_become_infinite_is_refused(format: str, largest: float, above: float) -> None:
    for sign in (-1, 1):
        assert np.isfinite(kernels.round_to(format, np.float32([[sign * largest]]))).all()
        for refused in (kernels.round_to, kernels.pack, kernels.quantise):
            with pytest.raises(OverflowError, match=f"1 of 3 numbers are too large for {format}"):
                refused(format, np.float32([[1.0, sign * above, 0.0]]))
        infinite = np.float32([[sign * np.inf]])
        assert kernels.round_to(format, infinite) == infinite


def test_a_block_whose_scale_would_be_infinite_is_refused() -> None:
    for format in ("q8_0", "q4_0", "q4_1"):
        with pytest.raises(OverflowError, match=f"too large for {format}"):
            kernels.quantise(format, np.linspace(-1e7, 1e7, 32, dtype=np.float32)[None])
        with pytest.raises(ValueError, match=f"{format} has no infinity and no NaN"):
            kernels.quantise(format, np.full((1, 32), np.nan, np.float32))


@pytest.mark.parametrize("format", PLAIN)
def test_rounding_twice_changes_nothing_and_equals_packing(format: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 37)).astype(np.float32)
    once = kernels.round_to(format, x)
    assert kernels.round_to(format, once).tobytes() == once.tobytes()
    assert kernels.unpack(format, kernels.pack(format, x), 3, 37).tobytes() == once.tobytes()


def test_exponentials_are_within_two_units_in_the_last_place() -> None:
    x = np.concatenate([every_float(4999), np.linspace(-105, 90, 200_000, dtype=np.float32)])
    found = kernels.exponentials(x)
    with np.errstate(over="ignore"):
        true = np.exp(x.astype(np.float64))
        nearest = true.astype(np.float32)
    finite = np.isfinite(nearest)
    assert (found[~finite] == np.inf).all()
    assert (np.abs(found[finite] - true[finite]) <= 2 * np.spacing(nearest[finite].astype(np.float32))).all()
    assert found.tobytes() == model.exp(x).tobytes()
    assert kernels.exponentials(np.float32([0, -np.inf, np.inf])).tolist() == [1, 0, np.inf]


@given(st.integers(1, 70), st.integers(0, 2**32))
def test_the_bits_of_an_activation_do_not_depend_on_its_place(columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 2 * columns)).astype(np.float32) * 4
    gated = kernels.silu_gate(x)
    pairs = np.ascontiguousarray(np.stack([x[:, :columns], x[:, columns:]], axis=2)).reshape(-1, 2)
    assert kernels.silu_gate(pairs).tobytes() == gated.tobytes()
    for function in (kernels.gelu, kernels.gelu_new):
        assert function(x.reshape(-1, 1)).tobytes() == function(x).tobytes()


def test_activations_are_near_their_values_in_float64() -> None:
    x = np.concatenate([np.linspace(-12, 12, 100_001), [0, 1e-30, -1e-30, 60, -60, 3e38, -3e38]])
    rows = x.astype(np.float32)[:, None]
    x = rows.astype(np.float64)
    bound = 2e-7 + 2e-7 * np.abs(x)
    normal = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    assert (np.abs(kernels.gelu(rows) - x * normal) <= 2 * bound).all()
    with np.errstate(over="ignore"):
        tanh = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        silu = x / (1 + np.exp(-x))
    assert (np.abs(kernels.gelu_new(rows) - 0.5 * x * (1 + tanh)) <= bound).all()
    gates = np.concatenate([rows, np.full_like(rows, 1)], axis=1)
    assert (np.abs(kernels.silu_gate(gates) - silu) <= bound).all()
