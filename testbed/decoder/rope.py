"""The tables of rotary position embedding: by which angles each position turns the pairs of a head."""

from __future__ import annotations

import math

import numpy as np

from testbed.decoder.kernels import Floats
from testbed.shape import Rope

Tables = tuple[Floats, Floats]  # cosines and sines, each (positions, d/2)


def rope_tables(rope: Rope, head_dim: int, positions: int) -> Tables:
    """The cosines and sines of all positions, computed in float64 and then rounded to float32."""
    angles = np.arange(positions, dtype=np.float64)[:, None] * frequencies(rope, head_dim)[None]  # (positions, d/2)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """The angle (d/2,) by which one position turns each pair, in radians."""
    plain = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "factors":
        return plain / np.array(rope.factors, np.float64)
    if rope.kind == "llama3":
        # The share of the plain frequency: 0 for long waves, 1 for short ones (transformers, modeling_rope_utils.py).
        turns = rope.original * plain / (2 * math.pi)  # of each pair within the original context
        share = np.clip((turns - rope.low) / (rope.high - rope.low), 0.0, 1.0)
        return (1 - share) * plain / rope.factor + share * plain
    return plain
