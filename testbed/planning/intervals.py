"""How far off predictions of published measurements were, and the interval that follows for a new one.

With errors of n configurations, a new prediction's error lies between the least and the largest of them in n - 1 of
n + 1 cases, whatever their distribution, if the new one is like them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from testbed.validation.comparison import MOST_SCORED, TOKENS, Compared
from testbed.validation.summary import configurations, errors


@dataclass(frozen=True)
class Spread:
    """The relative errors (predicted - published) / published of a kind of configurations."""

    least: float
    largest: float
    count: int
    basis: str  # what was compared, in words

    @property
    def coverage(self) -> float:
        """The share of new predictions whose error lies within."""
        return (self.count - 1) / (self.count + 1)

    def around(self, predicted: float) -> tuple[float, float]:
        """(least, largest) value of a time, or of what grows with it, given its prediction."""
        return predicted / (1 + self.largest), predicted / (1 + self.least)


def spread_for(devices: int, rows: Iterable[Compared]) -> Spread:
    """The spread of errors on so many devices.

    One device has no message, so the errors are those of computing. Over four boards the few token times that are
    shown and not scored count too.
    """
    rows = list(rows)
    if devices == 1:
        found = errors(configurations(rows, "computing"), lambda one: one.time_error)
        basis = "computing times"
    else:
        found = errors(configurations(rows, TOKENS), lambda one: one.time_error)
        basis = f"token times on 2 to {MOST_SCORED} boards"
        if devices > MOST_SCORED:
            more = [one for one in rows if one.config is not None and len(one.config.boards) > MOST_SCORED]
            off = {
                f"line {one.measurement.row.line}": one.time_error for one in more if one.measurement.kind == "token"
            }
            found |= {line: error for line, error in off.items() if error is not None}
            basis = "token times on 2 to 8 boards"
    return Spread(min(0.0, *found.values()), max(0.0, *found.values()), len(found), basis)
