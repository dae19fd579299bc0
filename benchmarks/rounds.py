"""Ratios of rounds in which two ways took turns."""

from __future__ import annotations

import statistics


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """The ratio in each round."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def spread(values: list[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def told(values: list[float]) -> dict[str, float]:
    """The median and the range, as a JSON line has them."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
