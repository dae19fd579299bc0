"""What a trace file says: changes of quantities over time, and what happens after the last one.

Every format module returns a `Recording`. `traces.model.Trace` is a recording whose rules have been checked. This
module knows no format and no rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from testbed.traces.quantities import recorded_quantities
from testbed.traces.series import EndRule

MOST_CHANGES = 200_000
"""The most rows of one trace; each takes some hundred bytes, here and in the manifest of every run."""


@dataclass(frozen=True)
class Change:
    """From `time_s` on, `quantity` of `target` has this SI value."""

    time_s: float  # in the trace clock's unit: seconds, or tokens
    target: str  # link/DEVICE or device/DEVICE
    quantity: str
    value: float | None  # None: from here on the topology's own value holds


@dataclass(frozen=True)
class Recording:
    """Changes that were recorded or generated together and that end by the same rule."""

    changes: tuple[Change, ...]
    end: EndRule = "hold"
    period: float | None = None  # None only with `hold`
    name: str = field(default="trace", compare=False)


def looping_link(
    path: Path, target: str, direction: str, steps: Iterable[tuple[float, float]], period: float
) -> Recording:
    """A looping recording of one link from (seconds, bit/s) steps; ConfigError for a bad target or direction."""
    quantities = recorded_quantities(target, direction)
    changes = tuple(Change(time, target, quantity, rate) for time, rate in steps for quantity in quantities)
    return Recording(changes, end="loop", period=period, name=path.stem)
