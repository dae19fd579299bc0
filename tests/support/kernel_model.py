"""The fixed order of `testbed.decoder.kernels` in numpy: what each kernel must compute, bit by bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
LANES = 32
f32 = np.float32


def add_lanes(lanes: Floats) -> Floats:
    """The sum over the last axis, of 32 lanes, by halves."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def added(terms: Floats) -> Floats:
    """The sum over the last axis: lane i adds elements i, 32 + i, ..."""
    missing = -terms.shape[-1] % LANES
    padded = np.concatenate([terms, np.zeros((*terms.shape[:-1], missing), f32)], axis=-1)
    lanes = np.zeros((*terms.shape[:-1], LANES), f32)
    for start in range(0, padded.shape[-1], LANES):
        lanes = lanes + padded[..., start : start + LANES]
    return add_lanes(lanes)


def product(wide: Floats, x: Floats, bias: Floats | None = None) -> Floats:
    """x (rows, in) times the transpose of wide (out, in)."""
    y = np.stack([added(row * wide) for row in x]) if len(x) else np.zeros((0, len(wide)), f32)
    return y if bias is None else y + bias


def widened(format: str, data: bytes, rows: int, columns: int) -> Floats:
    """What ggml widens packed rows to."""
    if format == "float32":
        return np.frombuffer(data, f32).reshape(rows, columns)
    if format == "float16":
        return np.frombuffer(data, np.float16).reshape(rows, columns).astype(f32)
    if format == "bfloat16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(f32).reshape(rows, columns)
    blocks = np.frombuffer(data, np.uint8).reshape(rows * columns // LANES, -1)
    d = blocks[:, :2].copy().view(np.float16).astype(f32)
    if format == "q8_0":
        return (blocks[:, 2:].view(np.int8).astype(f32) * d).reshape(rows, columns)
    nibbles = blocks[:, 2:] if format == "q4_0" else blocks[:, 4:]
    q = np.concatenate([nibbles & 15, nibbles >> 4], axis=1).astype(np.int32)
    if format == "q4_0":
        return ((q - 8).astype(f32) * d).reshape(rows, columns)
    m = blocks[:, 2:4].copy().view(np.float16).astype(f32)
    return (q.astype(f32) * d + m).reshape(rows, columns)


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float) -> Floats:
    """The mean first, then the mean square of what lies off it."""
    columns = f32(x.shape[1])
    off = x - (added(x) / columns)[:, None]
    scale = f32(1) / np.sqrt(added(off * off) / columns + f32(eps))
    y = off * scale[:, None] * weight
    return y if bias is None else y + bias


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Each row divided by its root mean square."""
    scale = f32(1) / np.sqrt(added(x * x) / f32(x.shape[1]) + f32(eps))
    return x * scale[:, None] * weight


def exp(x: Floats) -> Floats:
    """The exponential: x = n ln 2 + r, 1 + r + r^2 p(r), and 2^n in two steps."""
    x = np.clip(x, f32(-104), f32(89))
    n = x * f32(1.44269504088896341) + f32(12582912) - f32(12582912)
    r = x - n * f32(0.693359375) + n * f32(2.12194440054690583e-4)
    p = r * f32(0.0013820661697536707) + f32(0.008368674665689468)
    for c in (0.04166826605796814, 0.1666652113199234, 0.4999999403953552):
        p = p * r + f32(c)
    p = (p * (r * r) + r) + f32(1)
    whole = n.astype(np.int32)
    half = whole >> 1
    with np.errstate(over="ignore"):
        return p * ((half + 127) << 23).view(f32) * ((whole - half + 127) << 23).view(f32)


def rope(x: Floats, cosine: Floats, sine: Floats) -> Floats:
    """The halves of a head (d,) rotated by one row (d/2,) of each table."""
    first, second = np.split(x, 2)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine])


def attended(q: Floats, keys: Floats, values: Floats, least: int, scale: float) -> Floats:
    """One query (d,) against positions from `least` on: blocks of 32, rescaled when the largest score grows."""
    largest, lanes, out = f32(-np.inf), np.zeros(LANES, f32), np.zeros(len(q), f32)
    for base in range(least // LANES * LANES, len(keys), LANES):
        score = np.full(LANES, -np.inf, f32)
        there = range(max(base, least), min(base + LANES, len(keys)))
        for t in there:
            score[t - base] = added(keys[t] * q) * f32(scale)
        most = max(largest, score.max())
        shrink = exp(np.array([largest - most], f32))[0]
        e = exp(score - most)
        lanes, out, largest = lanes * shrink + e, out * shrink, most
        for t in there:
            out = out + e[t - base] * values[t]
    return out / add_lanes(lanes)
