"""The cost model against the measurement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from testbed.analysis.load import Run
from testbed.analysis.metrics import MS, relative_error
from testbed.analysis.plots.style import (
    COLUMN_WIDTH,
    DARK,
    GREY,
    as_runs,
    figure,
    marker_of,
    palette,
    paper,
    plain_log_ticks,
    policies,
    say_empty,
)

LOG_SPREAD = 8
BAND = 0.10  # the grey band: measured within 10 % of predicted


def predicted_vs_measured(runs: Run | Sequence[Run]) -> Figure:
    """Measured over predicted latency, a point per decode token; the legend gives each policy's median error.

    Simulated runs are left out beside measured ones, since their times are the predictions themselves.
    """
    runs = as_runs(runs)
    colours = palette(policies(runs))
    simulated = all(run.simulated for run in runs)
    shown = [run for run in runs if simulated or not run.simulated]
    with paper():
        drawing = figure(COLUMN_WIDTH, 3.5)
        axes = drawing.subplots()
        reached: list[float] = []
        for index, (policy, colour) in enumerate(colours.items()):
            own = [run for run in shown if run.policy == policy and run.decoded["predicted_s"].notna().any()]
            if not own:
                continue
            points = pd.concat([run.decoded.dropna(subset=["predicted_s"]) for run in own])
            error = pd.concat([relative_error(run) for run in own]).median()
            x, y = points["predicted_s"] * MS, points["latency_s"] * MS
            axes.scatter(
                x,
                y,
                s=11,
                marker=marker_of(index),
                color=colour,
                alpha=0.6,
                linewidths=0.3,
                edgecolors="white",
                label=f"{policy} (median error {error:.1%})",
                gid=policy,
            )
            reached += [x.min(), x.max(), y.min(), y.max()]
        if not reached:
            say_empty(axes, "no token has a prediction")
            return drawing
        low, high = 0.95 * min(reached), 1.05 * max(reached)
        if high > LOG_SPREAD * low > 0:
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                plain_log_ticks(axis)
        ends = np.array([low, high])
        axes.plot(ends, ends, color=DARK, linewidth=0.8, zorder=1, gid="diagonal")
        axes.fill_between(
            ends,
            ends * (1 - BAND),
            ends * (1 + BAND),
            color=GREY,
            alpha=0.18,
            linewidth=0,
            zorder=0,
            label=f"within {BAND:.0%}",
        )
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.set_xlabel("Predicted token latency (ms)")
        axes.set_ylabel(f"{'Simulated' if simulated else 'Measured'} token latency (ms)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.4)
        return drawing
