"""Blocks filled from a checkpoint's files: any part of a tensor, from any stored format into any that is held."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from decoder_cases import anonymous_bytes
from gguf_cases import random_bytes
from hypothesis import given
from hypothesis import strategies as st

from testbed.decoder.kernels import quantise
from testbed.decoder.pieces import Part
from testbed.decoder.stored import STORED_FORMATS, StoredTensor, lossless_format, stored_bytes
from testbed.decoder.stored_weights import fill_rows
from testbed.decoder.widen import Bytes, widen
from testbed.errors import ConfigError
from testbed.formats import FORMATS, packed_bytes

BEFORE = 4097  # bytes in the file before the tensor: at no address that suits a number
Whole = slice(0, 1 << 30)


def stored(
    folder: Path, form: str, out: int, columns: int, heads: int = 0, transposed: bool = False, seed: int = 0
) -> tuple[StoredTensor, np.ndarray]:
    """A tensor in a file, and its values (out, in) in the order of a Hugging Face checkpoint."""
    raw = random_bytes(form, (out, columns), np.random.default_rng(seed))
    file = folder / f"{form}-{out}-{columns}-{seed}"
    file.write_bytes(bytes(BEFORE) + raw + b"after")
    values = widen(form, np.frombuffer(raw, np.uint8).reshape(out, -1))
    if heads:  # as transformers undoes what llama.cpp's converter does
        values = values.reshape(heads, out // heads // 2, 2, columns).swapaxes(1, 2).reshape(out, columns)
    dims = (columns, out) if transposed else (out, columns)
    return StoredTensor(file, form, dims, BEFORE, len(raw), "own.name", heads, transposed), values


def filled(one: StoredTensor, part: Part, held: str, columns: int | None = None) -> Bytes:
    """The rows (rows, bytes) of a block's tensor in memory."""
    count = part.rows.stop - part.rows.start
    width = part.columns.stop - part.columns.start if columns is None else columns
    rows = np.zeros((count, packed_bytes(held, 1, width)), np.uint8)
    fill_rows(rows, held, one, part)
    return rows


def assert_holds(rows: Bytes, held: str, values: np.ndarray, form: str) -> None:
    """Rows have exactly these values where the format allows it, else what ggml's quantiser makes of them."""
    if held == "float32" or lossless_format([form, held]) == held:
        assert (widen(held, rows) == values).all()
    else:
        assert rows.tobytes() == quantise(held, np.ascontiguousarray(values))


def test_every_stored_format_is_put_into_every_format_that_a_device_holds(tmp_path: Path) -> None:
    for form in STORED_FORMATS:
        one, values = stored(tmp_path, form, 8, 512)
        for held in FORMATS:
            for columns in (slice(0, 512), slice(32, 96), slice(256, 512), slice(480, 512)):
                rows = filled(one, Part("", slice(2, 7), columns), held)
                assert_holds(rows, held, values[2:7, columns], form)


@given(data=st.data())
def test_any_part_of_a_tensor_is_what_it_is_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from(sorted(STORED_FORMATS)))
    heads = data.draw(st.sampled_from([0, 0, 1, 3]))
    out = data.draw(st.integers(1, 5)) * (2 * heads or 1)
    width = 256 * data.draw(st.integers(1, 3))
    one, values = stored(tmp_path_factory.getbasetemp(), form, out, width, heads, seed=data.draw(st.integers(0, 3)))
    first = data.draw(st.integers(0, out - 1))
    rows = slice(first, data.draw(st.integers(first + 1, out)))
    unit = data.draw(st.sampled_from([1, 32]))
    low = data.draw(st.integers(0, width // unit - 1))
    columns = slice(low * unit, data.draw(st.integers(low + 1, width // unit)) * unit)
    held = data.draw(st.sampled_from(sorted(FORMATS if unit == 32 else ("float32", "float16", "bfloat16"))))
    assert_holds(filled(one, Part("", rows, columns), held), held, values[rows, columns], form)


@pytest.mark.parametrize("held", FORMATS)
@pytest.mark.parametrize("form", ["float64", "float32", "float16", "bfloat16"])
def test_a_tensor_stored_as_in_out_is_turned(tmp_path: Path, form: str, held: str) -> None:
    one, turned = stored(tmp_path, form, 320, 99)  # (in, out) in the file
    for rows, columns in ((slice(0, 99), slice(0, 320)), (slice(7, 9), slice(0, 320)), (slice(90, 99), slice(64, 256))):
        part = Part("", rows, columns, transposed=True)
        assert_holds(filled(one, part, held), held, turned.T[rows, columns], form)


@pytest.mark.parametrize("form", ["float32", "q8_0", "q4_1"])
def test_a_tensor_that_both_have_turned_is_read_straight(tmp_path: Path, form: str) -> None:
    one, values = stored(tmp_path, form, 6, 64, transposed=True)
    part = Part("", slice(1, 5), slice(32, 64), transposed=True)
    assert (widen(form, filled(one, part, form)) == values[1:5, 32:]).all()


@pytest.mark.parametrize("form", ["float64", "float32", "float16", "bfloat16"])
def test_a_vector_has_one_element_a_row(tmp_path: Path, form: str) -> None:
    raw = random_bytes(form, (12,), np.random.default_rng(0))
    (tmp_path / "vector").write_bytes(bytes(BEFORE) + raw)
    values = widen(form, np.frombuffer(raw, np.uint8)[None])[0]
    plain = StoredTensor(tmp_path / "vector", form, (12,), BEFORE, len(raw), "bias")
    assert (filled(plain, Part("", slice(2, 9), slice(0, 1)), "float32").view(np.float32)[:, 0] == values[2:9]).all()
    permuted = StoredTensor(tmp_path / "vector", form, (12,), BEFORE, len(raw), "bias", permuted_heads=2)
    expected = values.reshape(2, 3, 2).swapaxes(1, 2).reshape(12)
    assert (filled(permuted, Part("", slice(0, 12), slice(0, 1)), "float32").view(np.float32)[:, 0] == expected).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused_by_the_tensors_own_name(
    tmp_path: Path, value: float, transposed: bool
) -> None:
    one, _ = stored(tmp_path, "float32", 64, 64)
    content = bytearray(one.file.read_bytes())
    content[BEFORE + 4 * 70 : BEFORE + 4 * 71] = np.array([value], np.float32).tobytes()
    one.file.write_bytes(content)
    for held in ("float32", "q8_0"):
        with pytest.raises(ConfigError, match=f"{one.file}: tensor 'own.name' has values that are not numbers"):
            filled(one, Part("", slice(0, 64), slice(0, 64), transposed), held)
    filled(one, Part("", slice(32, 64), slice(32, 64), transposed), "float32")


def test_a_value_that_a_narrower_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    one, _ = stored(tmp_path, "float32", 4, 32)
    content = bytearray(one.file.read_bytes())
    content[BEFORE : BEFORE + 4] = np.array([70_000.0], np.float32).tobytes()
    one.file.write_bytes(content)
    part = Part("", slice(0, 4), slice(0, 32))
    with pytest.raises(ConfigError, match="tensor 'own.name' has values that are too large for float16"):
        filled(one, part, "float16")
    assert widen("bfloat16", filled(one, part, "bfloat16"))[0, 0] == 70144


def test_a_file_that_has_become_shorter_or_is_gone_is_one_sentence(tmp_path: Path) -> None:
    one, _ = stored(tmp_path, "float32", 4, 32)
    part = Part("", slice(0, 4), slice(0, 32))
    one.file.write_bytes(one.file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="'own.name' is not all there: the file has become shorter"):
        filled(one, part, "float32")
    one.file.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        filled(one, part, "float32")


@pytest.mark.parametrize(
    ("form", "held", "transposed", "columns"),
    [
        ("float32", "float32", False, Whole), ("float32", "float32", True, Whole), ("float16", "q8_0", False, Whole),
        ("q4_1", "q4_1", False, Whole), ("q6_k", "float16", False, Whole), ("float32", "q8_0", True, Whole),
        ("float32", "float32", False, slice(512, 1024)), ("q8_0", "q8_0", False, slice(0, 128)),
    ],
)  # fmt: skip
def test_filling_never_holds_a_second_copy(
    tmp_path: Path, form: str, held: str, transposed: bool, columns: slice
) -> None:
    out, width = 8192, 4096
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.truncate(stored_bytes(form, (out, width)))  # zeros
    one = StoredTensor(file, form, (out, width), 0, stored_bytes(form, (out, width)), "large")
    outs, ins = (width, out) if transposed else (out, width)
    columns = slice(0, ins) if columns is Whole else columns
    rows = np.zeros((outs, packed_bytes(held, 1, columns.stop - columns.start)), np.uint8)
    rows[:] = 1  # resident
    filled(*_small(tmp_path))  # what the first call loads
    highest, over = [before := anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not over.wait(0.0005):
            highest[0] = max(highest[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    fill_rows(rows, held, one, Part("", slice(0, outs), columns, transposed))
    over.set()
    watcher.join()
    assert not rows[:, ::97].any() or form in ("q6_k",)
    assert highest[0] - before < 8 * 2**20


def _small(folder: Path) -> tuple[StoredTensor, Part, str]:
    return stored(folder, "float32", 32, 32)[0], Part("", slice(0, 32), slice(0, 32)), "q8_0"
