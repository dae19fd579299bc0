"""Products, rows and norms have the bits of the fixed order, for every format, size, address and processor."""

from __future__ import annotations

from collections.abc import Iterator

import kernel_model as model
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_model import Floats

from testbed.decoder import kernels
from testbed.decoder.kernels import Packed
from testbed.formats import FORMATS, PLAIN, packed_bytes

LEVELS = range(kernels.library().best_level() + 1)
BLOCKED = sorted(set(FORMATS) - set(PLAIN))


@pytest.fixture(params=LEVELS, ids=lambda level: ("plain", "AVX2", "AVX-512")[level])
def _processor(request: pytest.FixtureRequest) -> Iterator[None]:
    kernels.library().use_level(request.param)
    yield
    kernels.library().use_level(kernels.library().best_level())


every_processor = pytest.mark.usefixtures("_processor")


def numbers(seed: int, *dims: int) -> Floats:
    return np.random.default_rng(seed).normal(size=dims).astype(np.float32)


def at(offset: int, data: bytes) -> np.ndarray:
    """The same bytes at an address that is `offset` past a multiple of 64."""
    room = np.zeros(len(data) + 128, np.uint8)
    first = -room.ctypes.data % 64 + offset
    room[first : first + len(data)] = np.frombuffer(data, np.uint8)
    return room[first : first + len(data)]


def moved(offset: int, x: Floats) -> Floats:
    return at(offset, x.tobytes()).view(np.float32).reshape(x.shape)


def same(one: Floats, other: Floats) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def columns_of(format: str) -> st.SearchStrategy[int]:
    block = FORMATS[format].block
    return st.integers(1, 5 if block > 1 else 150).map(lambda n: n * block)


@st.composite
def products(draw: st.DrawFn) -> tuple[Packed, Floats, Floats | None]:
    format = draw(st.sampled_from(sorted(FORMATS)))
    rows, columns, seed = draw(st.integers(1, 9)), draw(columns_of(format)), draw(st.integers(0, 2**32))
    data = kernels.quantise(format, numbers(seed, rows, columns))
    w = Packed(format, rows, columns, at(draw(st.integers(0, 63)), data))
    x = moved(draw(st.integers(0, 63)), numbers(seed + 1, draw(st.integers(1, 19)), columns))
    bias = moved(draw(st.integers(0, 63)), numbers(seed + 2, rows)) if draw(st.booleans()) else None
    return w, x, bias


@every_processor
@given(products())
def test_a_product_has_the_bits_of_the_fixed_order(case: tuple[Packed, Floats, Floats | None]) -> None:
    w, x, bias = case
    wide = model.widened(w.format, w.data.tobytes(), w.rows, w.columns)
    assert same(kernels.matmul(w, x, bias), model.product(wide, x, bias))


@every_processor
@given(products())
def test_a_packed_product_is_that_of_the_widened_matrix_and_rows_do_not_see_each_other(
    case: tuple[Packed, Floats, Floats | None],
) -> None:
    w, x, bias = case
    y = kernels.matmul(w, x, bias)
    wide = kernels.rows_of(w, np.arange(w.rows))
    assert same(wide, model.widened(w.format, w.data.tobytes(), w.rows, w.columns))
    assert same(kernels.matmul(Packed("float32", w.rows, w.columns, wide.tobytes()), x, bias), y)
    assert same(np.concatenate([kernels.matmul(w, x[i : i + 1], bias) for i in range(len(x))]), y)


@pytest.mark.parametrize("format", FORMATS)
def test_a_large_product_is_right_where_its_rows_are_taken_in_groups(format: str) -> None:
    data = kernels.quantise(format, numbers(1, 1000, 256))
    w, x = Packed(format, 1000, 256, data), numbers(2, 13, 256)
    wide = model.widened(format, data, 1000, 256)
    assert same(kernels.matmul(w, x), model.product(wide, x))
    np.testing.assert_allclose(kernels.matmul(w, x), x.astype(float) @ wide.T.astype(float), atol=2e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_a_lookup_is_the_rows_in_the_order_asked(format: str) -> None:
    data = kernels.quantise(format, numbers(3, 10, 64))
    wide = model.widened(format, data, 10, 64)
    assert same(kernels.rows_of(Packed(format, 10, 64, data), [9, 0, 0, 4]), wide[[9, 0, 0, 4]])


@pytest.mark.parametrize("row", [-1, 3, 2**40])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of a matrix of 3 rows"):
        kernels.rows_of(Packed("float32", 3, 1, bytes(12)), [0, row])


@every_processor
@given(st.integers(1, 150), st.integers(1, 4), st.integers(0, 63), st.booleans(), st.integers(0, 2**32))
def test_norms_have_the_bits_of_the_fixed_order(columns: int, rows: int, offset: int, shift: bool, seed: int) -> None:
    x = moved(offset, numbers(seed, rows, columns) * 30 + 7)
    weight, bias = moved(offset, numbers(seed + 1, columns)), numbers(seed + 2, columns) if shift else None
    assert same(kernels.layer_norm(x, weight, bias, 1e-5), model.layer_norm(x, weight, bias, 1e-5))
    assert same(kernels.rms_norm(x, weight, 1e-6), model.rms_norm(x, weight, 1e-6))


def test_a_packed_matrix_has_the_bytes_of_its_format() -> None:
    assert {name: packed_bytes(name, 3, 64) for name in FORMATS} == {
        "float32": 768, "bfloat16": 384, "float16": 384, "q8_0": 204, "q4_0": 108, "q4_1": 120,
    }  # fmt: skip
    with pytest.raises(ValueError, match="q4_1 has blocks of 32, and 48 columns are no multiple"):
        packed_bytes("q4_1", 1, 48)
    with pytest.raises(ValueError, match="3 x 64 in q8_0 take 204 bytes, not 203"):
        Packed("q8_0", 3, 64, bytes(203))


W, X = Packed("float32", 2, 4, bytes(32)), np.zeros((3, 4), np.float32)
WRONG = {
    "too few columns": lambda: kernels.matmul(W, np.zeros((3, 3), np.float32)),
    "another type": lambda: kernels.matmul(W, X.astype(np.float64)),  # type: ignore[arg-type]
    "one dimension": lambda: kernels.matmul(W, X[0]),
    "not in one piece": lambda: kernels.matmul(W, np.zeros((4, 3), np.float32).T),
    "every other column": lambda: kernels.matmul(W, np.zeros((3, 8), np.float32)[:, ::2]),
    "a bias too short": lambda: kernels.matmul(W, X, np.zeros(1, np.float32)),
    "a weight too short": lambda: kernels.rms_norm(X, np.zeros(3, np.float32), 1e-5),
    "a shift too short": lambda: kernels.layer_norm(X, np.zeros(4, np.float32), np.zeros(3, np.float32), 1e-5),
    "an odd gate": lambda: kernels.silu_gate(np.zeros((1, 5), np.float32)),
    "activations of another type": lambda: kernels.gelu(X.astype(np.float64)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arrays_that_would_be_read_past_their_end_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="contiguous|2F"):
        WRONG[wrong]()


def test_no_rows_have_no_products() -> None:
    assert kernels.matmul(W, X[:0]).shape == (0, 2)
