"""A limit on the time that a decision may take. Nothing else in `placement` looks at a clock."""

from __future__ import annotations

import math
import time


class Deadline:
    """Passes `limit_s` seconds after it is made; without a limit it never passes."""

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
