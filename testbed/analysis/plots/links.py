"""The figure of link rates: requested by the trace, set in the kernel, and achieved by transfers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from testbed.analysis.load import Run
from testbed.analysis.metrics import achieved_share
from testbed.analysis.plots.style import (
    DARK,
    FULL_WIDTH,
    GREY,
    LOG_SPREAD,
    figure,
    grid_of,
    palette,
    paper,
    plain_log_ticks,
    say_empty,
    says_simulated,
)
from testbed.natural import natural
from testbed.wire import TCP_SHARE

MBIT = 1e6
MOST_DECADES = 1e4
SHORT = 8  # letters of a name that leaves room for more in its title
LOWEST_SHARE = 0.8  # the axis of ratios starts here, or lower if a transfer achieved less
SHARED = "shared link"  # a kind of migration: another one went over its uplink or downlink at the same time
_DIRECTIONS = ("up", "down", "path")
_DASHES: dict[str, Any] = {"up": "-", "down": (0, (3, 2)), "path": "none"}
_MARKERS = {"up": "^", "down": "v", "path": "o"}


@says_simulated
def link_rates(run: Run) -> Figure:
    """The rates of each link, and what transfers achieved.

    Left, a panel for each device shows the requested rate (wide line), the rate that was read back (thin line), and the
    rates of transfers (markers). A transfer over a path stands at the link that limits it. Right, each timed transfer
    is drawn as achieved / requested over the requested rate, with TCP's ceiling; the marker of a migration that shared
    an uplink or a downlink with another one is half filled. A simulated run has achieved nothing, so only its requested
    rates are drawn.
    """
    if run.simulated:
        run = replace(run, rates=run.rates.iloc[:0])
    with paper():
        devices = sorted({*run.links["device"], *run.rates["device"]}, key=natural)
        rows, columns = grid_of(len(devices), most_columns=2 if len(devices) <= 6 else 4)
        drawing = figure(FULL_WIDTH, max(3.0, 1.3 * rows + 0.5))
        left, *right = [drawing] if run.simulated else drawing.subfigures(1, 2, width_ratios=[1.6, 1], squeeze=False)[0]
        panels = left.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        colours, limits = palette(_DIRECTIONS), _limiting_device(run)
        for index, (axes, device) in enumerate(zip(panels, devices, strict=False)):
            _panel(axes, run, device, limits, colours)
            axes.tick_params(labelbottom=index + columns >= len(devices))
        for axes in panels[len(devices) :]:
            axes.set_axis_off()
        if devices:
            seen = pd.concat([run.links["requested_bps"], run.rates["achieved_bps"]])
            seen = seen[seen > 0]
            if seen.max() > LOG_SPREAD * seen.min():
                panels[0].set_yscale("log")
                lowest = max(seen.min(), seen.max() / MOST_DECADES)  # an outage lies below the axis
                panels[0].set_ylim(lowest / MBIT / 1.4, seen.max() / MBIT * 1.4)
                for axes in panels[: len(devices)]:
                    plain_log_ticks(axes.yaxis)
            else:
                panels[0].set_ylim(bottom=0)
            left.supxlabel("Emulated time since token 0 (s)", fontsize=8)
            left.supylabel("Rate (Mbit/s)", fontsize=8)
            left.legend(handles=_handles(run, colours), loc="outside upper center", ncols=3, columnspacing=1.0)
        else:
            left.text(0.5, 0.5, "the run has no shaped links", ha="center", color=GREY)
        for part in right:
            _scatter(part.subplots(), run, colours)
        return drawing


def _panel(axes: Axes, run: Run, device: str, limits: pd.Series, colours: dict[str, Any]) -> None:
    end = pd.concat([run.links["t_s"], run.rates["t_s"], run.tokens["start_s"]]).max()
    links = run.links[run.links["device"] == device]
    for direction, own in links.groupby("direction"):
        own = own.sort_values("t_s", kind="stable")
        time = np.append(own["t_s"], max(end, own["t_s"].max()))  # the last value holds until the end
        asked, read = (np.append(own[name], own[name].iloc[-1]) / MBIT for name in ("requested_bps", "readback_bps"))
        axes.plot(time, asked, drawstyle="steps-post", color=GREY, linewidth=_wide(run), alpha=0.6, gid="requested")
        axes.plot(
            time, read, drawstyle="steps-post", color=colours[str(direction)], linestyle=_DASHES[str(direction)],
            linewidth=1.1, zorder=3 if direction == "down" else 2.5, gid="readback",
        )  # fmt: skip
    for direction, own in run.rates[limits == device].groupby("direction"):
        axes.scatter(
            own["t_s"], own["achieved_bps"] / MBIT, marker=_MARKERS[str(direction)], s=16, zorder=4,
            color=[colours[str(direction)]], edgecolors="white", linewidths=0.4, gid="achieved",
        )  # fmt: skip
    axes.set_title(f"Link of {device}" if len(device) <= SHORT else device, loc="left", pad=3)


def _scatter(axes: Axes, run: Run, colours: dict[str, Any]) -> None:
    rates = run.rates[run.rates["requested_bps"] > 0]
    if rates.empty:
        say_empty(axes, "no transfer was timed")
        return
    fills: dict[str, Any] = {"probe": "none", "migration": "full", SHARED: "left"}
    kinds = rates["how"].mask(shared_with_another(rates), SHARED)
    for (direction, kind), own in rates.groupby(["direction", kinds]):
        axes.plot(
            own["requested_bps"] / MBIT, own["achieved_bps"] / own["requested_bps"], marker=_MARKERS[str(direction)],
            markersize=4.5, fillstyle=fills[str(kind)], color=colours[str(direction)], markerfacecoloralt="white",
            markeredgewidth=0.8, linestyle="none", zorder=3, gid=f"{direction}:{kind}",
        )  # fmt: skip
    axes.axhline(1.0, color=DARK, linewidth=0.8, zorder=1, gid="requested")
    axes.axhline(TCP_SHARE, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1, gid="ceiling")
    share = rates["achieved_bps"] / rates["requested_bps"]
    axes.set_ylim(min(LOWEST_SHARE, share.min() - 0.05), max(1.02, 1.02 * share.max()))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.set_xscale("log")
    axes.set_xlim(rates["requested_bps"].min() / MBIT / 1.6, rates["requested_bps"].max() / MBIT * 1.6)
    plain_log_ticks(axes.xaxis)
    axes.set_xlabel("Requested rate (Mbit/s)")
    axes.set_ylabel("Achieved / requested")
    axes.set_title(f"{len(rates)} transfers, median {achieved_share(run).median():.3f}", loc="left", pad=3)
    axes.legend(
        handles=[
            Line2D([], [], color=DARK, linewidth=0.8, label="requested"),
            Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)), label=f"TCP ceiling ({TCP_SHARE})"),
            *(
                Line2D(
                    [],
                    [],
                    marker="o",
                    markersize=4,
                    fillstyle=fills[kind],
                    color=DARK,
                    markerfacecoloralt="white",
                    linestyle="none",
                    label=kind,
                )
                for kind in fills
                if kind != SHARED or (kinds == SHARED).any()
            ),
        ],
        loc="best",
        ncols=2,
        columnspacing=1.0,
        handlelength=1.4,
    )


def shared_with_another(rates: pd.DataFrame) -> pd.Series:
    """Whether each transfer is a migration that had the sender's uplink or the receiver's downlink not to itself."""
    moved = rates[rates["how"] == "migration"]
    down = moved["direction"] == "down"
    ends = {"up": moved["device"].where(~down, moved["peer"]), "down": moved["peer"].where(~down, moved["device"])}
    until = (moved["t_s"] + 8 * moved["bytes"].astype(float) / moved["achieved_bps"]).fillna(moved["t_s"])
    shared = pd.Series(False, rates.index)
    for device in ends.values():
        for _, own in moved.groupby(device):
            start = own["t_s"].sort_values()
            end = until[start.index]
            shared[start.index] |= (start < end.cummax().shift()) | (start.shift(-1) < end)
    return shared


def _limiting_device(run: Run) -> pd.Series:
    """For each timed transfer, the device whose link limits it.

    For a transfer over a path, this is the device or its peer, whichever link had the rate of the path.
    """

    def limiting(row: pd.Series) -> str:
        if row["direction"] != "path" or pd.isna(row["peer"]):
            return str(row["device"])
        ends = ((row["device"], "up"), (row["peer"], "down"))
        return str(min(ends, key=lambda end: abs(_rate_at(run, end[0], end[1], row["t_s"]) - row["requested_bps"]))[0])

    return run.rates.apply(limiting, axis=1) if len(run.rates) else pd.Series(dtype="str")


def _rate_at(run: Run, device: str, direction: str, t_s: float) -> float:
    """The requested rate of a link at a time; infinite if none was logged."""
    link = run.links[(run.links["device"] == device) & (run.links["direction"] == direction)]
    until = link[link["t_s"] <= t_s].sort_values("t_s", kind="stable")
    return float(until["requested_bps"].iloc[-1]) if len(until) else float("inf")


def _wide(run: Run) -> float:
    """The width of the line of what was requested: wide where another one lies upon it."""
    return 1.5 if run.simulated else 3.5


def _handles(run: Run, colours: dict[str, Any]) -> list[Line2D]:
    """Legend entries for the lines and markers that the panels contain."""
    handles = [Line2D([], [], color=GREY, linewidth=_wide(run), alpha=0.6, label="requested")]
    for name in _DIRECTIONS:
        read = run.links.loc[run.links["direction"] == name, "readback_bps"].notna().any()
        timed = (run.rates["direction"] == name).any()
        contents = [word for word, drawn in (("read back", read), ("achieved", timed)) if drawn]
        if contents:
            handles.append(
                Line2D(
                    [],
                    [],
                    color=colours[name],
                    marker=_MARKERS[name] if timed else "none",
                    markersize=4,
                    linestyle=_DASHES[name] if read else "none",
                    linewidth=1.1,
                    label=f"{name}: {', '.join(contents)}",
                )
            )
    return handles
