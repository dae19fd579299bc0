"""Throughput traces as prepared for Pensieve: two columns, `seconds Mbit/s`, and no header.

White space separates the columns, and the time never steps backwards. The rate of a row holds from the time of the row
before *up to* its own time: Pensieve's simulator, `sim/fixed_env.py`, begins between the first two rows and returns
there after the last, so the first row only says when the trace begins. Time 0 is the first row, whatever clock the file
uses, and the trace loops with a period of last minus first time.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from testbed.traces.lines import file_error, line_error, number_rows
from testbed.traces.recording import Recording, looping_link

BITS_PER_MEGABIT = 1e6
_READ = {0: "time in seconds", 1: "rate in Mbit/s"}  # column -> what it holds


def load(path: str | Path, *, target: str, direction: str) -> Recording:
    """A looping link trace from a Pensieve file; raises ConfigError naming file and line."""
    path = Path(path)
    samples = _samples(path)
    begin, end = samples[0][0], samples[-1][0]
    if begin == end:
        raise file_error(path, "all rows have the same time: a row's rate is in force from the time of the row before")
    rates = [(before - begin, rate) for (before, _), (time, rate) in pairwise(samples) if time > before]
    return looping_link(path, target, direction, rates, end - begin)


def _samples(path: Path) -> list[tuple[float, float]]:
    """The (seconds, bit/s) rows of the file."""
    samples: list[tuple[float, float]] = []
    for number, (time, rate) in number_rows(path, _READ, len(_READ), "it must have 2, seconds and Mbit/s"):
        if samples and time < samples[-1][0]:
            raise line_error(path, number, f"the time steps backwards from {samples[-1][0]:g} to {time:g}")
        samples.append((time, rate * BITS_PER_MEGABIT))
    return samples
