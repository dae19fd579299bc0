"""Verdicts on a claim from the 95 % intervals of its figures, and the words for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import pandas as pd

from benchmarks.results.paired import DONE, Mean, counted, mean_of, named

METHODS = ("paper", "paper-search")
RIVALS = ("edgeshard", "galaxy")
ENOUGH = 20  # pairs; a figure over fewer is shown and not judged
LITTLE = 0.02  # of a token's time; a smaller saving is called that
YES, NO, OPEN = "reproduced", "not reproduced", "undecided"


@dataclass(frozen=True)
class Judged:
    """A figure and the verdict that rests on it."""

    figure: str
    verdict: str


@dataclass(frozen=True)
class Row:
    """A claim in one setting: what is compared, a verdict for each method, and what it rests on."""

    claim: int
    setting: str
    compared: str
    judged: tuple[Judged, ...]  # of each method, in the order of METHODS
    beside: str
    data: str  # the result that it comes from
    instances: int
    seeds: str  # in words
    told: str | None = None  # the setting's name in the table of verdicts; None leaves the row out there


def at_most(found: Mean | None, border: float) -> str:
    """The verdict on a figure that must not be over a border."""
    if found is None:
        return OPEN
    return YES if found.high <= border else NO if found.low > border else OPEN


def ahead_of(found: Mapping[str, Mean | None], border: float) -> str:
    """The verdict on being ahead of each rival by a factor; with too few pairs a rival does not count as finishing."""
    known = {rival: one for rival, one in found.items() if one is not None and one.count >= ENOUGH}
    won = [rival for rival, one in known.items() if one.low > border]
    lost = [rival for rival, one in known.items() if one.high <= border]
    if not known:
        return f"{OPEN}: no rival finishes"
    if len(won) == len(known):
        return YES if len(known) == len(found) else f"{YES} against {named(won)}, which alone finishes"
    if won:
        return f"{YES} against {named(won)} only"
    return NO if lost else OPEN


def saves(found: Mean | None) -> str:
    """The verdict on saving a share of a token's time."""
    if found is None or found.count < ENOUGH:
        return f"{OPEN}: too few pairs"
    if found.low > 0:
        return YES if found.value >= LITTLE else f"hardly: under {LITTLE:.0%}"
    return NO if found.high <= 0 else OPEN


def finishes(found: Mean | None) -> str:
    """The verdict on more runs that finish."""
    assert found is not None
    if found.low > 0:
        return f"{YES}: more runs finish"
    return f"{NO}: fewer runs finish" if found.high < 0 else "no difference" if found.low == found.high else OPEN


def times(found: Mean | None) -> str:
    """A ratio with its interval."""
    if found is None:
        return "-"
    return f"{found.value:.2f}" + (f" ({found.low:.2f} to {found.high:.2f})" if found.count > 1 else "")


def share(found: Mean | None, of: int | None = None) -> str:
    """A share with its sign and interval, and with the number of pairs if it is not `of`."""
    if found is None:
        return "-"
    few = f", {found.count} pairs" if of is not None and found.count < of else ""
    return f"{found.value:+.1%} ({found.low:+.1%} to {found.high:+.1%}){few}"


def points(found: Mean | None) -> str:
    """A difference of shares in points of percent, with its interval."""
    if found is None:
        return "-"
    value, low, high = (100 * one for one in (found.value, found.low, found.high))
    return f"{value:+.0f} points ({low:+.0f} to {high:+.0f})"


def of_rivals(own: pd.DataFrame, found: Mapping[str, Mean | None]) -> str:
    """The ratio of each rival with the number of pairs where it is not all, or how many of its runs finished."""
    told = []
    for rival, one in found.items():
        runs = own[own["policy"] == rival]
        if one is None:
            told.append(f"{rival} finishes {int((runs['status'] == DONE).sum())} of {len(runs)}")
        else:
            told.append(f"{rival} {times(one)}" + (f", {counted(one.count, 'pair')}" if one.count < len(runs) else ""))
    return "; ".join(told)


def more_finished(own: pd.DataFrame, policy: str, base: str) -> Mean | None:
    """The share of runs that `policy` finishes, less that of `base`, paired over seeds."""
    ours, theirs = (
        (own[own["policy"] == name].set_index("seed")["status"] == DONE).astype(int) for name in (policy, base)
    )
    return mean_of((ours - theirs).dropna().tolist())


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's formula."""
    z, found = 1.96, count / of
    middle, width = found + z * z / (2 * of), z * sqrt(found * (1 - found) / of + z * z / (4 * of * of))
    return (middle - width) / (1 + z * z / of), (middle + width) / (1 + z * z / of)
