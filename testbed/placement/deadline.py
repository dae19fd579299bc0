"""A limit on the time a decision may take: the placement room's only look at a clock."""

from __future__ import annotations

import math
import time


class Deadline:
    """Runs out `limit_s` seconds after it is made; never, without a limit."""

    def __init__(self, limit_s: float | None = None) -> None:
        self._started = time.monotonic()
        self._limit_s = math.inf if limit_s is None else limit_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    def passed(self) -> bool:
        """Whether the time is up."""
        return self.elapsed_s > self._limit_s
