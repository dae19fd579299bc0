"""Attention has the bits of the fixed order, however a text is cut, and the values of a softmax in float64."""

from __future__ import annotations

from dataclasses import dataclass

import kernel_model as model
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_model import Floats

from testbed.decoder import kernels
from testbed.decoder.kernels import Attention
from testbed.formats import PLAIN, packed_bytes

EPS = 1e-6


def numbers(seed: int, *dims: int) -> Floats:
    return np.random.default_rng(seed).normal(size=dims).astype(np.float32)


@dataclass
class Case:
    """A KV group and a text's rows of q, k and v."""

    format: str
    queries: int
    head_dim: int
    length: int
    window: int | None
    rope: tuple[Floats, Floats] | None
    norms: tuple[Floats, Floats] | None
    seed: int

    @property
    def scale(self) -> float:
        return 1 / np.sqrt(self.head_dim)

    @property
    def qkv(self) -> Floats:
        return numbers(self.seed, self.length, (self.queries + 2) * self.head_dim) * np.float32(2)

    def fresh(self) -> tuple[Attention, bytearray, bytearray]:
        size = packed_bytes(self.format, self.length, self.head_dim)
        keys, values = bytearray(b"\xff" * size), bytearray(b"\xff" * size)  # NaN where nothing has been written
        q_norm, k_norm = self.norms or (None, None)
        attention = Attention(
            self.format, keys, values, self.length, self.queries, self.head_dim, self.scale, self.rope, q_norm, k_norm,
            EPS, self.window,
        )  # fmt: skip
        return attention, keys, values

    def in_chunks(self, chunk: int) -> Floats:
        attention, _, _ = self.fresh()
        qkv = self.qkv
        parts = [kernels.attend(attention, qkv[at : at + chunk], at) for at in range(0, self.length, chunk)]
        return np.concatenate(parts)

    def head(self, x: Floats, norm: Floats | None, position: int) -> Floats:
        """A query or a key as it is compared."""
        if norm is not None:
            x = model.rms_norm(x[None], norm, EPS)[0]
        return x if self.rope is None else model.rope(x, self.rope[0][position], self.rope[1][position])

    def split(self) -> tuple[Floats, Floats, Floats]:
        """Queries (length, r, d), keys and values (length, d) as they are compared and added: rounded to the cache."""
        r, d = self.queries, self.head_dim
        q_norm, k_norm = self.norms or (None, None)
        parts = self.qkv.reshape(self.length, r + 2, d)
        q = np.stack([[self.head(parts[t, h], q_norm, t) for h in range(r)] for t in range(self.length)])
        k = np.stack([self.head(parts[t, r], k_norm, t) for t in range(self.length)])
        v = np.ascontiguousarray(parts[:, r + 1])
        return q, kernels.round_to(self.format, k), kernels.round_to(self.format, v)

    def least(self, position: int) -> int:
        return 0 if self.window is None else max(0, position - self.window + 1)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    d, length, seed = (
        draw(st.sampled_from([2, 16, 20, 32, 64, 80])),
        draw(st.integers(1, 70)),
        draw(st.integers(0, 2**32)),
    )
    angles = numbers(seed + 1, length + 3, d // 2)
    return Case(
        draw(st.sampled_from(PLAIN)),
        draw(st.integers(1, 4)),
        d,
        length,
        draw(st.none() | st.integers(1, 40)),
        (np.cos(angles), np.sin(angles)) if draw(st.booleans()) else None,
        (numbers(seed + 2, d), numbers(seed + 3, d)) if draw(st.booleans()) else None,
        seed,
    )


@given(cases())
def test_chunks_of_one_row_of_seven_and_of_many_have_the_same_bits(case: Case) -> None:
    whole = case.in_chunks(case.length)
    assert all(case.in_chunks(chunk).tobytes() == whole.tobytes() for chunk in (1, 7, 32))


@given(cases())
def test_attention_has_the_bits_of_the_fixed_order_on_every_processor(case: Case) -> None:
    q, k, v = case.split()
    wanted = np.stack([
        np.concatenate([model.attended(one, k[: t + 1], v[: t + 1], case.least(t), case.scale) for one in q[t]])
        for t in range(case.length)
    ])  # fmt: skip
    library = kernels.library()
    for level in range(library.best_level() + 1):
        library.use_level(level)
        assert case.in_chunks(5).tobytes() == wanted.tobytes()


@given(cases())
def test_attention_is_the_softmax_in_float64_to_five_digits(case: Case) -> None:
    q, k, v = (part.astype(np.float64) for part in case.split())
    found = case.in_chunks(case.length).reshape(q.shape)
    for t in range(case.length):
        there = slice(case.least(t), t + 1)
        score = q[t] @ k[there].T * case.scale
        weight = np.exp(score - score.max(axis=1, keepdims=True))
        np.testing.assert_allclose(found[t], weight / weight.sum(axis=1, keepdims=True) @ v[there], atol=1e-5)


@given(cases())
def test_the_cache_holds_rounded_keys_and_values(case: Case) -> None:
    attention, keys, values = case.fresh()
    kernels.attend(attention, case.qkv, 0)
    _, k, v = case.split()
    assert keys == kernels.pack(case.format, k)
    assert values == kernels.pack(case.format, v)


@pytest.mark.parametrize("window", [None, 8])
def test_a_value_that_a_row_does_not_attend_to_cannot_reach_it(window: int | None) -> None:
    case = Case("float32", 3, 32, 40, window, None, None, 0)
    for infinite in range(case.length):
        attention, _, _ = case.fresh()
        qkv = case.qkv
        qkv[infinite, -case.head_dim :] = np.inf
        found = kernels.attend(attention, qkv, 0)
        reached = [case.least(row) <= infinite <= row for row in range(case.length)]
        assert (~np.isfinite(found).all(axis=1)).tolist() == reached


def test_a_key_too_large_for_the_cache_is_refused() -> None:
    attention = Attention("float16", bytearray(64), bytearray(64), 1, 1, 32, 1.0)
    with pytest.raises(OverflowError, match="32 keys or values are too large for float16"):
        kernels.attend(attention, np.repeat(np.float32([1, 1e5, 1]), 32)[None], 0)


def test_rows_past_the_end_of_the_cache_are_refused() -> None:
    attention = Attention("float32", bytearray(256), bytearray(256), 2, 1, 32, 1.0)
    with pytest.raises(ValueError, match="2 rows at 1 are not within the cache's 2 positions"):
        kernels.attend(attention, np.zeros((2, 96), np.float32), 1)
    with pytest.raises(ValueError, match="no writable buffer for 3 x 32 numbers in float32"):
        Attention("float32", bytearray(256), bytearray(256), 3, 1, 32, 1.0)
    with pytest.raises(ValueError, match="no writable buffer"):
        Attention("float32", bytes(256), bytes(256), 2, 1, 32, 1.0)
    with pytest.raises(ValueError, match="a table of RoPE is \\(1, 16\\)"):
        table = np.zeros((1, 16), np.float32)
        Attention("float32", bytearray(256), bytearray(256), 2, 1, 32, 1.0, (table, table))
