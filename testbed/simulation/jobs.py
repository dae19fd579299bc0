"""Work that takes a while, under conditions that change meanwhile.

The share that is done stays done. The rest takes its share of what the whole would take under the new conditions. A
total of infinity makes no progress. This module knows only numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Job:
    """Work that would take `total_s` seconds in all under the present conditions."""

    total_s: float
    since_s: float  # since when the present conditions hold, or the job goes on
    left: float = 1.0  # the share of the work that was left then

    @property
    def end_s(self) -> float:
        """When it ends if the conditions stay as they are."""
        return self.since_s + self.left * self.total_s if self.left else self.since_s

    def change(self, now_s: float, total_s: float) -> None:
        """From now on the whole job would take `total_s`."""
        if self.total_s > 0:
            self.left = max(0.0, self.left - (now_s - self.since_s) / self.total_s)
        else:
            self.left = 0.0
        self.since_s, self.total_s = now_s, total_s


@dataclass
class Generation:
    """What the source is asked to generate, and the token that it is at."""

    until: int  # tokens of the whole run
    started_s: float
    chunk: int = 0  # rows of a prefill chunk; 0 after the prefill
    rebuilt: int = 0  # up to which row KV caches are only filled, in such chunks and without a token
    kept: int = 0  # the row from which on they are filled
    job: Job | None = None  # the token under way; None between tokens
