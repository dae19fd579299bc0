"""The figure of docs/validation.md: predicted against published values, every row a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.results.drawing import save
from testbed.analysis.plots.style import FULL_WIDTH, GREY, figure, paper
from testbed.validation.comparison import BYTES, TIMES, Compared

BAND = 0.25
_MARKERS = {"token": ("o", "token time"), "compute": ("s", "computing"), "network": ("^", "transfer")}


def _label(one: Compared) -> str:
    """A point's board, or its chip where several boards have the same, and its engine."""
    assert one.config is not None
    board = one.config.boards[0]
    name = "any board" if board is None else board.family.replace("raspberry pi", "Pi").split("-")[0]
    return f"{name}, {one.config.engine.name}"


def draw(rows: Sequence[Compared], file: Path) -> None:
    """Draw the points of all rows that have a prediction, and save the figure as a PNG."""
    shown = [one for one in rows if one.error is not None and one.predicted]
    times = [one for one in shown if one.measurement.kind in TIMES]
    labels = sorted({_label(one) for one in times})
    colours = dict(zip(labels, sns.color_palette("colorblind", len(labels)), strict=True))
    with paper():
        matplotlib.use("agg")
        fig = figure(FULL_WIDTH, 4.2)
        left, right = fig.subplots(1, 2)
        _panel(left, times, lambda one, value: _milliseconds(one, value), colours)
        left.set_title("Times of a token, ms")
        traffic = [one for one in shown if one.measurement.kind in BYTES]
        grey = {_label(one): "#0173b2" for one in traffic}
        _panel(right, traffic, lambda one, value: value * one.measurement.size / 1024, grey)
        right.set_title("Bytes per token, KiB")
        left.set_ylabel("predicted")
        handles = [Line2D([], [], marker="o", ls="", color=colours[label], label=label, ms=4) for label in labels]
        handles += [
            Line2D([], [], marker=marker, ls="", color="#333333", label=name, ms=4)
            for marker, name in _MARKERS.values()
        ]
        handles.append(Line2D([], [], marker="o", ls="", mfc="none", color="#333333", label="single board", ms=4))
        fig.legend(handles=handles, loc="outside lower center", ncols=4)
        save(fig, file)


def _milliseconds(one: Compared, value: float) -> float:
    return (1 / (value * one.measurement.size) if one.measurement.is_rate else value * one.measurement.size) * 1e3


def _panel(
    axes: Axes, rows: Sequence[Compared], scaled: Callable[[Compared, float], float], colours: dict[str, object]
) -> None:
    points = [
        (scaled(one, float(one.measurement.value)), scaled(one, float(one.predicted)), one)
        for one in rows
        if one.measurement.value and one.predicted
    ]
    ends = [min(min(x, y) for x, y, _ in points) / 1.3, max(max(x, y) for x, y, _ in points) * 1.3]
    line = np.geomspace(*ends, 50)
    axes.fill_between(line, line * (1 - BAND), line * (1 + BAND), color=GREY, alpha=0.2, lw=0)
    axes.plot(line, line, color=GREY, lw=0.8)
    for x, y, one in points:
        marker = _MARKERS.get(one.measurement.kind, ("D", ""))[0]
        colour = colours[_label(one)]
        axes.plot(x, y, marker, color=colour, mfc="none" if one.calibration else colour, ms=4, mew=0.8, alpha=0.85)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="published")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
