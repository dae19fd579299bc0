"""Stored weights widened to float32, judged bit by bit against the library `gguf`."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, dequantize, quantize
from gguf_cases import random_bytes

from testbed.decoder.convert import convert
from testbed.decoder.stored import STORED_FORMATS, lossless_format
from testbed.decoder.widen import SCALES, Bytes, has_non_numbers, widen

QUANTISED = sorted(SCALES)
ROWS, COLUMNS = 6, 768
OWN_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def stored_rows(form: str, seed: int = 1) -> Bytes:
    draw = np.random.default_rng(seed)
    return np.frombuffer(random_bytes(form, (ROWS, COLUMNS), draw), np.uint8).reshape(ROWS, -1)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool((one.view(np.uint32) == other.view(np.uint32)).all())


@pytest.mark.parametrize("form", [*QUANTISED, *OWN_NAMES])
def test_values_are_those_of_ggml_bit_for_bit(form: str) -> None:
    rows = stored_rows(form)
    kind = GGMLQuantizationType[OWN_NAMES.get(form, form.upper())]
    assert same_bits(widen(form, rows), np.ascontiguousarray(dequantize(rows, kind)))


@pytest.mark.parametrize("form", QUANTISED)
def test_a_block_has_the_size_that_ggml_gives_it(form: str) -> None:
    from gguf import GGML_QUANT_SIZES

    one = STORED_FORMATS[form]
    assert (one.block, one.block_bytes) == GGML_QUANT_SIZES[GGMLQuantizationType[form.upper()]]


@pytest.mark.parametrize("stored", sorted(set(STORED_FORMATS) - {"float64"}))
def test_the_format_that_loses_nothing_loses_nothing(stored: str) -> None:
    held = lossless_format([stored])
    rows = stored_rows(stored)
    assert same_bits(widen(held, convert(stored, held, rows)), widen(stored, rows))


@pytest.mark.parametrize(
    ("stored", "held"),
    [
        (["q4_1"], "q4_1"), (["q8_0"], "q8_0"), (["q4_0"], "q4_0"), (["bfloat16"], "bfloat16"), ([], "float32"),
        (["q4_0", "q4_1"], "q4_1"), (["q4_0", "q8_0"], "q8_0"), (["q5_0", "q8_0", "iq4_nl"], "q8_0"),
        (["q4_1", "q8_0"], "float32"), (["float16", "bfloat16"], "float32"), (["q4_k", "q6_k"], "float32"),
        (["float16", "float32"], "float32"), (["float64"], "float32"), (["q5_1"], "float32"),
    ],
)  # fmt: skip
def test_tensors_of_several_formats_get_the_first_that_holds_them_all(stored: list[str], held: str) -> None:
    assert lossless_format(stored) == held


@pytest.mark.parametrize("held", ["q4_1", "q8_0"])
def test_every_nibble_of_q4_0_is_held_exactly_by_larger_blocks(held: str) -> None:
    steps = np.array([0.0, 1.0, -1.0, 5.96e-8, -0.0371, 8000.0], np.float16)
    blocks = np.zeros((len(steps), 18), np.uint8)
    blocks[:, :2] = steps[:, None].view(np.uint8)
    blocks[:, 2:] = np.arange(16) | np.arange(15, -1, -1) << 4
    assert (widen(held, convert("q4_0", held, blocks)) == widen("q4_0", blocks)).all()


@pytest.mark.parametrize("held", ["q8_0", "q4_0", "q4_1"])
def test_plain_weights_are_quantised_as_ggml_does_it(held: str) -> None:
    rows = stored_rows("float32")
    expected = quantize(rows.view(np.float32), GGMLQuantizationType[held.upper()])
    assert (convert("float32", held, rows) == expected).all()


@pytest.mark.parametrize("form", [*QUANTISED, *OWN_NAMES, "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_value_that_is_no_number_is_seen(form: str, value: float) -> None:
    rows = stored_rows(form).copy()
    assert not has_non_numbers(form, rows)
    flat = rows.reshape(-1)
    if form in SCALES:
        for at in SCALES[form]:
            damaged = rows.copy()
            last = damaged.reshape(-1, STORED_FORMATS[form].block_bytes)[-1]
            last[at : at + 2] = np.array([value], np.float16).view(np.uint8)
            assert has_non_numbers(form, damaged)
    elif form == "bfloat16":
        flat[-2:] = (np.array([value], np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        assert has_non_numbers(form, rows)
    else:
        one = np.array([value], form)
        flat[-one.nbytes :] = one.view(np.uint8)
        assert has_non_numbers(form, rows)


def test_the_largest_number_of_each_plain_format_is_a_number() -> None:
    for form in ("float16", "float32", "float64"):
        largest = np.array([[np.finfo(form).max, -np.finfo(form).max]], form).view(np.uint8)
        assert not has_non_numbers(form, largest)


@pytest.mark.parametrize("held", ["float32", "q8_0"])
def test_a_number_of_64_bits_that_float32_cannot_hold_is_an_overflow(held: str) -> None:
    rows = np.full((1, 32), 1e39).view(np.uint8)
    with pytest.raises(OverflowError):
        convert("float64", held, rows)


def test_a_minimum_that_float16_cannot_hold_is_an_overflow() -> None:
    block = np.zeros((1, 18), np.uint8)
    block[:, :2] = np.array([9000.0], np.float16).view(np.uint8)
    with pytest.raises(OverflowError):
        convert("q4_0", "q4_1", block)
    assert widen("q8_0", convert("q4_0", "q8_0", block))[0, 0] == 9000.0 * -8
