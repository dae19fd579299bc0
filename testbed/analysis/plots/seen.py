"""Figures of what a run saw: estimates beside the truth, and each link's own delay beside the asked one."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from testbed.analysis.load import Run
from testbed.analysis.plots import style

# A panel's title -> the quantities in it, and the error that is allowed in the interval after a sample.
_PANELS = {
    "Link rates": (("up", "down"), 0.10),
    "Device rates": (("streaming", "compute"), 0.05),
    "Memory": (("memory",), 0.02),
}
MS = 1e3
SPREAD = 5.0  # tokens over which the points of one decision are spread, so that each device is seen


@style.says_simulated
def estimates(run: Run) -> Figure:
    """Estimates over the truth at each decision: filled where the interval before showed the quantity, else hollow.

    The band is the error that an estimate should not exceed after an interval in which it was seen.
    """
    with style.paper():
        drawing = style.figure(style.FULL_WIDTH, 2.2)
        panels = drawing.subplots(1, len(_PANELS), sharex=True)
        if run.estimates.empty:
            style.say_empty(panels[0], "the run was shown the truth")
            return drawing
        colours = style.palette(style.devices_of(run))
        places = {device: place for place, device in enumerate(colours)}
        for axes, (title, (quantities, allowed)) in zip(panels, _PANELS.items(), strict=True):
            rows = run.estimates[run.estimates["quantity"].isin(quantities) & (run.estimates["truth"] > 0)]
            axes.axhspan(1 - allowed, 1 + allowed, color=style.GREY, alpha=0.2, linewidth=0)
            for target, own in rows.groupby("target"):
                device = str(target).partition("/")[2]
                shifted = own.assign(step=own["step"] + SPREAD * (places.get(device, 0) / len(places) - 0.5))
                _points(axes, shifted, colours.get(device, style.DARK))
            axes.set_title(title, loc="left", pad=3)
        panels[0].set_ylabel("Estimate / truth")
        drawing.supxlabel("Tokens generated before the decision", fontsize=8)
        names = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in colours.items()]
        hollow = Line2D([], [], marker="o", linestyle="", color=style.DARK, fillstyle="none", label="not seen lately")
        drawing.legend(handles=[*names, hollow], loc="outside upper center", ncols=8, columnspacing=1.2)
        return drawing


def _points(axes: Axes, rows: pd.DataFrame, colour: Any) -> None:
    for used, own in rows.groupby(rows["used"].astype(bool)):
        axes.scatter(
            own["step"], own["estimate"] / own["truth"], s=10, linewidths=0.7, edgecolors=[colour],
            facecolors=[colour] if used else "none", gid="seen" if used else "stale",
        )  # fmt: skip


@style.says_simulated
def link_delays(run: Run) -> Figure:
    """Each direction of a link: the delay that was asked for (line), and the middle eighty per cent of its own."""
    with style.paper():
        drawing = style.figure(style.COLUMN_WIDTH, 0.6 + 0.22 * max(4, len(run.delays)))
        axes = drawing.subplots()
        if run.delays.empty:
            style.say_empty(axes, "no link carried enough messages")
            return drawing
        rows = run.delays.reset_index(drop=True)
        axes.hlines(rows.index, rows["p10_s"] * MS, rows["p90_s"] * MS, color=style.DARK, linewidth=1.2, gid="spread")
        axes.scatter(rows["p50_s"] * MS, rows.index, s=12, color=style.DARK, zorder=3, label="median message")
        axes.scatter(
            rows["asked_s"] * MS, rows.index, marker="|", s=90, color=style.ALARM, zorder=4, label="asked", gid="asked"
        )  # fmt: skip
        axes.set_yticks(rows.index, [f"{row.device} {row.direction}" for row in rows.itertuples()])
        axes.invert_yaxis()
        axes.set_xlabel("One-way delay of the link itself (ms)")
        drawing.legend(loc="outside upper center", ncols=2)
        return drawing
