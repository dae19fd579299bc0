"""Means over paired instances with bootstrap intervals, and helpers that write text and tables for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from benchmarks.results.running import FREE_EDGESHARD
from testbed.runlog.comparison import COST, mean_with_interval

DONE = "done"


@dataclass(frozen=True)
class Mean:
    """A mean over `count` instances and its 95 % interval, which a single instance does not have."""

    value: float
    low: float
    high: float
    count: int

    def percent(self, digits: int = 1) -> str:
        """A ratio as a difference from 1, such as `+3.1 % (2.0 to 4.2)`."""
        numbers = [f"{100 * (one - 1):+.{digits}f}" for one in (self.value, self.low, self.high)]
        return f"{numbers[0]} %" + (f" ({numbers[1]} to {numbers[2]})" if self.count > 1 else "")


def mean_of(values: Sequence[float]) -> Mean | None:
    """The mean of paired values; None if there are none."""
    mean, interval = mean_with_interval(list(values))
    if mean is None:
        return None
    low, high = interval or (mean, mean)
    return Mean(mean, low, high, len(values))


def finished(frame: pd.DataFrame, policy: str, column: str = COST) -> pd.Series:
    """The figure of each finished run of a policy, by seed."""
    own = frame[(frame["policy"] == policy) & (frame["status"] == DONE)]
    figures: pd.Series = own.set_index("seed")[column].astype(float).sort_index()
    return figures


def ratio(frame: pd.DataFrame, policy: str, base: str) -> Mean | None:
    """The ratio of token times with stalls, `policy` over `base`, as the mean over the seeds that both finished."""
    ours, theirs = finished(frame, policy).align(finished(frame, base), join="inner")
    return mean_of((ours / theirs).tolist())


def with_better_edgeshard(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The same runs with one EdgeShard for each instance: the better of its two runs, which `keys` identify."""
    own = frame[frame["policy"].isin(("edgeshard", FREE_EDGESHARD))]
    runs = own.drop_duplicates([*keys, "policy"])
    ranked = runs.assign(short=runs["tokens_asked"] - runs["tokens_done"]).sort_values(["short", COST, "policy"])
    better = own.merge(ranked.drop_duplicates(list(keys))[[*keys, "policy"]], on=[*keys, "policy"])
    return pd.concat([frame.drop(own.index), better.assign(policy="edgeshard")], ignore_index=True)


def prose(text: str) -> str:
    """A paragraph from several lines of code as one line."""
    return " ".join(text.split())


def named(names: Sequence[str]) -> str:
    """Names for a sentence: `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(count: int, thing: str) -> str:
    """A number with its noun: `1 seed`, `2 seeds`."""
    return f"{count} {thing}" + ("" if count == 1 else "s")


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose first column is text and whose other columns are numbers."""
    marks = ["---", *["---:"] * (len(headings) - 1)]
    lines = [headings, marks, *rows]
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |" for line in lines)
