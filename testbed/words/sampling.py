"""The choice of the next token among its logits: the largest, or one drawn by temperature, top-k and top-p.

A draw depends only on the logits, the seed and the token's position, never on where or when it is made. So every
placement draws the same tokens as one process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.errors import RunFailed

if TYPE_CHECKING:
    import numpy as np

_UNIT_BITS = 53  # of a float64 between 0 and 1


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. The three settings are applied in this order, as in transformers."""

    seed: int
    temperature: float = 1.0  # divides the logits
    top_k: int | None = None  # only this many tokens with the largest logits may be drawn, and those equal to the last
    top_p: float = 1.0  # then only the most likely ones that together have this probability

    def draw(self, logits: np.ndarray, position: int) -> int:
        """The token at a position of the sequence, drawn from its logits (V,) in float32; raises RunFailed for NaN."""
        import numpy as np

        if np.isnan(logits).any():
            raise RunFailed(f"the logits at position {position} are no numbers, so no token can be drawn from them")
        kept = np.arange(len(logits))
        if self.top_k is not None and self.top_k < len(logits):
            least = np.partition(logits, -self.top_k)[-self.top_k]
            kept = np.flatnonzero(logits >= least)
        values = logits[kept].astype(np.float64) / self.temperature
        order = np.argsort(-values, kind="stable")  # the first of equal logits comes first
        weights = np.exp(values[order] - values[order[0]])
        sums = np.cumsum(weights)
        count = int(np.searchsorted(sums, self.top_p * sums[-1])) + 1  # the last one reaches top_p
        sums = sums[:count]
        drawn = int(np.searchsorted(sums, _uniform(self.seed, position) * sums[-1], side="right"))
        return int(kept[order[min(drawn, len(sums) - 1)]])


def _uniform(seed: int, position: int) -> float:
    """A number from 0 to below 1, the same for the same seed and position on every machine."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _UNIT_BITS)) / 2.0**_UNIT_BITS
