"""The figure of measured against predicted latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from testbed.analysis.load import Run
from testbed.analysis.metrics import MS, relative_error
from testbed.analysis.plots import style

BAND = 0.10  # the grey band: the measurement is within 10 % of the prediction


@style.says_simulated
def predicted_vs_measured(runs: Run | Sequence[Run]) -> Figure:
    """The measured over the predicted latency of each decode token; the legend has the median errors.

    If some runs were measured, simulated runs are left out, because their times are the predictions themselves.
    """
    runs = style.as_runs(runs)
    colours = style.policy_colours(style.policies(runs))
    simulated = all(run.simulated for run in runs)
    shown = [run for run in runs if simulated or not run.simulated]
    with style.paper():
        drawing = style.figure(style.COLUMN_WIDTH, 3.5)
        axes = drawing.subplots()
        reached: list[float] = []
        for index, group in enumerate(style.alike(shown)):
            colour = colours[group.policy]
            own = [run for run in group.runs if run.decoded["predicted_s"].notna().any()]
            if not own:
                continue
            points = pd.concat([run.decoded.dropna(subset=["predicted_s"]) for run in own])
            error = pd.concat([relative_error(run) for run in own]).median()
            x, y = points["predicted_s"] * MS, points["latency_s"] * MS
            axes.scatter(
                x, y, s=11, marker=style.marker_of(index), color=colour, alpha=0.6, linewidths=0.3, edgecolors="white",
                label=style.folded(f"{group.name} (median error {error:.1%})", style.COLUMN_WIDTH), gid=group.policy,
            )  # fmt: skip
            reached += [x.min(), x.max(), y.min(), y.max()]
        if not reached:
            style.say_empty(axes, "no token has a prediction")
            return drawing
        low, high = 0.95 * min(reached), 1.05 * max(reached)
        if high > style.LOG_SPREAD * low > 0:
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                style.plain_log_ticks(axis)
        ends = np.array([low, high])
        axes.plot(ends, ends, color=style.DARK, linewidth=0.8, zorder=1, gid="diagonal")
        axes.fill_between(
            ends, ends * (1 - BAND), ends * (1 + BAND), color=style.GREY, alpha=0.18, linewidth=0, zorder=0,
            label=f"within {BAND:.0%}",
        )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.set_xlabel("Predicted token latency (ms)")
        axes.set_ylabel(f"{'Simulated' if simulated else 'Measured'} token latency (ms)")
        legend = axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.4)
        style.make_room(drawing, [text.get_text() for text in legend.get_texts()])
        return drawing
