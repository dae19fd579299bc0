"""What is measured of a machine, as numbers with the spread of their rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Measured(NamedTuple):
    """The median of some rounds, in SI units, and the least and the most of them."""

    value: float
    least: float
    most: float


def over_rounds(values: Sequence[float]) -> Measured:
    """The median and the spread of one number over all rounds."""
    return Measured(statistics.median(values), min(values), max(values))
