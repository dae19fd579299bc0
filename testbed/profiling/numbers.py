"""What is measured of a machine, as numbers with the spread of their rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

WIDE = 2.0  # a spread whose ends differ by more than this is of a machine that was busy


class Measured(NamedTuple):
    """The median of some rounds, in SI units, and the least and the most of them."""

    value: float
    least: float
    most: float

    @property
    def wide(self) -> bool:
        """Whether the rounds say rather different things."""
        return self.most > WIDE * self.least


def over_rounds(values: Sequence[float]) -> Measured:
    """The median and the spread of one number over all rounds."""
    return Measured(statistics.median(values), min(values), max(values))


def over_good_rounds(values: Sequence[float]) -> Measured:
    """The same over the rounds that give a finite number; infinite unless more than half of them do."""
    good = [value for value in values if math.isfinite(value)]
    return over_rounds(good if 2 * len(good) > len(values) else [math.inf])
