"""Figures of recoveries from lost devices: the phases of each, and how long runs stood still by method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from testbed.analysis.load import Run
from testbed.analysis.plots import style

BAR = 0.62  # of the distance between two bars
PHASES: Mapping[str, tuple[str, str]] = {  # phase -> the columns at which it begins and ends
    "deciding": ("noticed_s", "decided_s"),
    "loading blocks and rows": ("decided_s", "committed_s"),
    "recomputing caches": ("committed_s", "rebuilt_s"),
    "first token": ("rebuilt_s", "token_s"),
}
HATCHES = ("", "////", "", "....")


@style.says_simulated
def recoveries(run: Run) -> Figure:
    """The phases of each recovery of a run, from the notice of a loss to the first token after it."""
    rows = run.recoveries.sort_values("noticed_s")
    labels = [f"token {row.step}: without {str(row.devices).replace(',', ', ')}" for row in rows.itertuples()]
    return _bars(labels, [[_phases(row)] for _, row in rows.iterrows()], "no device was lost")


@style.says_simulated
def downtime(runs: Run | Sequence[Run]) -> Figure:
    """Mean time from the notice of a loss to the first token after it, by method of recovery; dots are recoveries."""
    found: dict[str, list[dict[str, float]]] = {}
    for group in style.alike(style.as_runs(runs)):
        for run in group.runs:
            for _, row in run.recoveries.iterrows():
                found.setdefault(f"{group.name}: {_method(run)}", []).append(_phases(row))
    return _bars(list(found), list(found.values()), "no run lost a device")


def _bars(labels: Sequence[str], recovered: Sequence[Sequence[Mapping[str, float]]], otherwise: str) -> Figure:
    """A bar for each label: the mean of its recoveries, phase by phase."""
    with style.paper():
        drawing = style.figure(style.FULL_WIDTH, 0.9 + 0.24 * max(2, len(labels)))
        axes = drawing.subplots()
        if not labels:
            style.say_empty(axes, otherwise)
            return drawing
        colours = dict(zip(PHASES, sns.color_palette("colorblind", len(PHASES)), strict=True))
        for place, own in enumerate(recovered):
            _bar(axes, place, own, colours)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("Seconds since the loss was noticed")
        handles = [
            Patch(facecolor=colours[phase], hatch=hatch, edgecolor="white", label=phase)
            for phase, hatch in zip(PHASES, HATCHES, strict=True)
        ]
        drawing.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return drawing


def _bar(axes: Axes, place: int, own: Sequence[Mapping[str, float]], colours: Mapping[str, Any]) -> None:
    left = 0.0
    for phase, hatch in zip(PHASES, HATCHES, strict=True):
        seconds = sum(one[phase] for one in own) / len(own)
        axes.barh(
            place, seconds, left=left, height=BAR, color=colours[phase], hatch=hatch, edgecolor="white", linewidth=0,
            gid="phase",
        )  # fmt: skip
        left += seconds
    if len(own) > 1:
        totals = [sum(one.values()) for one in own]
        axes.scatter(totals, [place] * len(own), s=9, color=style.DARK, zorder=3, gid="recovery")
    axes.annotate(f"{left:.3g} s", (left, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=6.5)


def _phases(row: pd.Series) -> dict[str, float]:
    """The seconds of each phase; what is missing, such as a first token, takes none."""
    return dict(_seconds(row))


def _seconds(row: pd.Series) -> Iterator[tuple[str, float]]:
    for phase, (begin, end) in PHASES.items():
        seconds = row[end] - row[begin]
        yield phase, float(seconds) if pd.notna(seconds) else 0.0


def _method(run: Run) -> str:
    recovery = run.fact("recovery")
    return str(recovery.get("method", "recompute")) if isinstance(recovery, Mapping) else "recompute"
