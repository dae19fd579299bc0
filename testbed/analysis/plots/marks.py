"""Marks for external events of a run: trace steps, enforced memory decreases, and OOM kills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from testbed.analysis.load import Run
from testbed.analysis.plots.style import ALARM, DARK, GREY
from testbed.units import format_bandwidth, format_bytes, format_compute, format_duration, format_rate

MOST_LABELS = 6  # more trace steps have lines without labels
MOST_DASHED = 20  # more are ticks along the upper edge
RUG_FROM = 0.96  # of the height of the axes
_SHOWN: dict[str, Callable[[float], str]] = {
    "up": format_rate, "down": format_rate, "up_delay": format_duration, "down_delay": format_duration,
    "loss": "{:.2%}".format, "memory": format_bytes, "compute": format_compute, "streaming": format_bandwidth,
}  # fmt: skip
_WORDS = {"up": "uplink", "down": "downlink", "up_delay": "up delay", "down_delay": "down delay"}


@dataclass(frozen=True)
class Mark:
    """An event at a token boundary, with its label."""

    step: float
    t_s: float
    text: str


def steps_of(run: Run, events: pd.DataFrame) -> np.ndarray:
    """The token of each event: the one that it names, else the first token that begins after it."""
    starts = np.sort(run.tokens["start_s"].to_numpy())
    begun = np.searchsorted(starts, events["t_s"].fillna(-np.inf)).astype(float)
    return np.where(events["step"].isna(), begun, events["step"].to_numpy(float, na_value=np.nan))


def _changes(run: Run) -> pd.DataFrame:
    return run.events[run.events["kind"].isin(["trace_applied", "memory_announced", "memory_enforced"])]


def most_changed(runs: Sequence[Run]) -> Run:
    """The run that met the most changes by traces: it met all that a comparison's runs share."""

    def met(run: Run) -> int:
        steps = np.unique(steps_of(run, _changes(run)))
        return int((steps > 0).sum())

    return max(runs, key=met)


def trace_marks(run: Run) -> list[Mark]:
    """The changes by traces after the start; the changes at one token boundary share a mark."""
    events = _changes(run)
    by_step: dict[float, tuple[float, dict[str, None]]] = {}
    announced: set[tuple[float, str]] = set()
    columns = [events[name].tolist() for name in ("kind", "t_s", "target", "quantity", "value")]
    for step, kind, t_s, *change in zip(steps_of(run, events).tolist(), *columns, strict=True):
        if step <= 0:
            continue
        text = _change_text(*change)
        if kind == "memory_announced":
            announced.add((step, text))
        elif kind == "memory_enforced":
            if (step, text) in announced:  # one label is enough for the same boundary
                continue
            text += " enforced"
        by_step.setdefault(step, (t_s, {}))[1][text] = None
    return [Mark(step, t_s, "\n".join(_merged(list(texts)))) for step, (t_s, texts) in sorted(by_step.items())]


def oom_mark(run: Run) -> Mark | None:
    """The first OOM kill of the run, or None."""
    kills = run.events[run.events["kind"] == "oom_kill"]
    if kills.empty:
        return None
    kill = kills.iloc[0]
    where = f" on {kill['device']}" if pd.notna(kill["device"]) else ""
    return Mark(float(steps_of(run, kills)[0]), float(kill["t_s"]), f"OOM kill{where}")


def draw_trace_marks(
    axes: Axes, marks: Sequence[Mark], labels: bool = True, colour: str = GREY, zorder: float = 0.5
) -> None:
    """Vertical lines at the marks' tokens, labelled above the axes if they are few; a rug if they are many."""
    dash, begin = ((0, (2, 2)), 0.0) if len(marks) <= MOST_DASHED else ("-", RUG_FROM)
    for index, mark in enumerate(marks):
        axes.axvline(mark.step, begin, color=colour, linewidth=0.7, linestyle=dash, zorder=zorder, gid="trace-step")
        if labels and len(marks) <= MOST_LABELS:
            # A label close to its left neighbour goes on the left-hand side of the first line instead.
            close = index + 1 < len(marks) and marks[index + 1].step - mark.step < 0.2 * marks[-1].step
            axes.annotate(
                mark.text, (mark.step, 1.0), xycoords=("data", "axes fraction"), xytext=(-2 if close else 2, 2),
                textcoords="offset points", ha="right" if close else "left", va="bottom", fontsize=6.5, color=DARK,
            )  # fmt: skip


def trace_handle(marks: Sequence[Mark], whose: str = "") -> Line2D:
    """The legend entry for what `draw_trace_marks` draws."""
    if len(marks) > MOST_DASHED:
        return Line2D([], [], color=GREY, linestyle="none", marker="|", markersize=5, label=f"trace steps{whose}")
    return Line2D([], [], color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), label=f"trace step{whose}")


def draw_oom(axes: Axes, x: float, y: float | None = None, text: str = "", drop_points: float = 0) -> None:
    """Draw an OOM kill as a cross at (x, y), or as a line through the axes if y is None.

    The text stands beside it, lower by `drop_points`.
    """
    if y is None:
        axes.axvline(x, color=ALARM, linewidth=1.0, zorder=4, gid="oom")
    else:
        axes.plot(
            [x], [y], marker="X", markersize=7, color=ALARM, markeredgecolor="white", linestyle="none", zorder=6,
            gid="oom", clip_on=False,
        )  # fmt: skip
    if text:
        axes.annotate(
            text, (x, 0.97 if y is None else y), xycoords=("data", "axes fraction" if y is None else "data"),
            xytext=(4 if y is None else 6, -drop_points), textcoords="offset points",
            va="top" if y is None else "center", fontsize=6.5, color=ALARM,
        )  # fmt: skip


def _change_text(target: str, quantity: str, value: float) -> str:
    target = str(target).partition("/")[2] or str(target)
    shown = "" if pd.isna(value) else _SHOWN.get(quantity, "{:g}".format)(value)
    return f"{target}: {_WORDS.get(quantity, quantity)} {shown}"


def _merged(texts: list[str]) -> list[str]:
    """The labels, with `b: uplink X` and `b: downlink X` merged into `b: link X`."""
    there, merged = set(texts), []
    for text in texts:
        twin = text.replace("uplink", "downlink") if "uplink" in text else text.replace("downlink", "uplink")
        both = text.replace("uplink", "link").replace("downlink", "link")
        merged.append(both if twin in there else text)
    return list(dict.fromkeys(merged))
