"""Figures of what a run saw: estimates beside the truth, and each link's own delay beside the asked one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from testbed.analysis.load import Run
from testbed.analysis.metrics import MIB, MS
from testbed.analysis.plots import style
from testbed.natural import natural

# A strip's title -> the quantities in it, and the error that is allowed in the interval after a sample.
_STRIPS = {
    "Link rates": (("up", "down"), 0.10),
    "Link delays": (("up_delay", "down_delay"), 0.10),
    "Device rates": (("streaming", "compute"), 0.05),
    "Memory": (("memory",), 0.02),
}
# A quantity -> how a panel names it, and its unit there with its size.
_QUANTITIES = {
    "up": ("up", "Mbit/s", 1e6), "down": ("down", "Mbit/s", 1e6), "up_delay": ("delay up", "ms", 1e-3),
    "down_delay": ("delay down", "ms", 1e-3), "streaming": ("streaming", "GB/s", 1e9),
    "compute": ("compute", "GFLOP/s", 1e9), "memory": ("memory", "MiB", MIB),
}  # fmt: skip
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
MOST_COURSES = 3  # estimates whose course is shown
MOST_HEIGHT = 9.0  # inches; a page
ALWAYS_ALLOWED_MS = 0.5  # by which the delay of a link may be off in any run


@style.says_simulated
def estimates(run: Run) -> Figure:
    """How near estimates were: each as a point at estimate / truth, and the courses of those that were farthest off.

    Points are filled where the interval before showed the quantity. The bands are the errors that these may have.
    """
    with style.paper():
        rows = run.estimates[run.estimates["truth"] > 0].copy()
        rows["ratio"] = (rows["estimate"] / rows["truth"]).clip(lower=_RATIOS[0], upper=_RATIOS[-1])
        strips = {title: part for title, (names, _) in _STRIPS.items()
                  if len(part := rows[rows["quantity"].isin(names)])}  # fmt: skip
        farthest = _farthest(strips)
        drawing = style.figure(style.FULL_WIDTH, 0.8 + 0.5 * max(len(strips), 1.3 * len(farthest), 2))
        if not strips:
            style.say_empty(drawing.subplots(), "the run was shown the truth")
            return drawing
        parts = drawing.subfigures(1, 2 if farthest else 1, width_ratios=[1.5, 1] if farthest else None, squeeze=False)
        _draw_strips(parts[0][0], strips)
        if farthest:
            _draw_courses(parts[0][1], rows, farthest)
        return drawing


def _farthest(strips: dict[str, pd.DataFrame]) -> list[tuple[str, str]]:
    """(target, quantity) of the estimates that were off by more than is allowed, the farthest first."""
    found: dict[tuple[str, str], float] = {}
    for title, part in strips.items():
        off = np.log(part["ratio"]).abs().groupby([part["target"], part["quantity"]]).max()
        found |= {(str(t), str(q)): value for (t, q), value in off.items() if value > np.log1p(_STRIPS[title][1])}
    return sorted(found, key=lambda each: -found[each])[:MOST_COURSES]


def _draw_strips(part: SubFigure, strips: dict[str, pd.DataFrame]) -> None:
    axes = part.subplots()
    for place, (title, rows) in enumerate(strips.items()):
        allowed = _STRIPS[title][1]
        axes.fill_betweenx([place - 0.4, place + 0.4], 1 - allowed, 1 + allowed, color=style.GREY, alpha=0.25, lw=0)
        for used, lane, word in ((True, -0.2, "seen"), (False, 0.2, "not seen lately")):
            own = rows[rows["used"].astype(bool) == used]
            if not len(own):
                continue
            heights = place + lane + 0.28 * (np.arange(len(own)) * 0.618 % 1 - 0.5)  # so that equal ones lie apart
            axes.scatter(
                own["ratio"], heights, s=7, linewidths=0.5, alpha=0.7, edgecolors=style.DARK, clip_on=False,
                facecolors=style.DARK if used else "none", gid="seen" if used else "stale",
            )  # fmt: skip
            near = int(((own["ratio"] - 1).abs() <= allowed + 1e-9).sum())
            axes.annotate(
                f"{word}: {near} of {len(own)} within {100 * allowed:.0f} %", (1.02, place + lane),
                xycoords=("axes fraction", "data"), va="center", fontsize=6.5, annotation_clip=False,
            )  # fmt: skip
    axes.axvline(1, color=style.GREY, linewidth=0.6, zorder=0)
    axes.set_xscale("log")
    low, high = (f([rows["ratio"].agg(f.__name__) for rows in strips.values()]) for f in (min, max))
    axes.set_xlim(min(0.85, low / 1.15), max(1.18, high * 1.15))
    axes.xaxis.set_major_locator(FixedLocator(_ticks(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(strips)), list(strips))
    axes.set_ylim(len(strips) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Estimate / truth, at each decision")


def _ticks(low: float, high: float) -> list[float]:
    wide = high / low > 3
    return [each for each in _RATIOS if low <= each <= high and not (wide and each != 1 and 0.6 < each < 1.5)]


def _draw_courses(part: SubFigure, rows: pd.DataFrame, chosen: Sequence[tuple[str, str]]) -> None:
    panels = part.subplots(len(chosen), 1, sharex=True, squeeze=False).ravel()
    for axes, (target, quantity) in zip(panels, chosen, strict=True):
        name, unit, size = _QUANTITIES[quantity]
        own = rows[(rows["target"] == target) & (rows["quantity"] == quantity)].sort_values("step")
        axes.plot(own["step"], own["truth"] / size, color=style.GREY, linewidth=3.0, alpha=0.6, drawstyle="steps-mid")
        axes.plot(own["step"], own["estimate"] / size, color=style.DARK, linewidth=0.6)
        for used in (True, False):
            some = own[own["used"].astype(bool) == used]
            axes.plot(
                some["step"], some["estimate"] / size, linestyle="", marker="o", markersize=3, color=style.DARK,
                markerfacecolor=style.DARK if used else "white", markeredgewidth=0.6, gid="course",
            )  # fmt: skip
        values = pd.concat([own["truth"], own["estimate"]])
        if values.min() > 0 and values.max() > style.LOG_SPREAD * values.min():
            axes.set_yscale("log")
            style.plain_log_ticks(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(f"{target.partition('/')[2] or target} {name} ({unit})", loc="left", pad=2, fontsize=7)
    panels[-1].set_xlabel("Tokens generated before the decision")
    truth = Line2D([], [], color=style.GREY, linewidth=3.0, alpha=0.6, label="truth")
    estimate = Line2D([], [], color=style.DARK, linewidth=0.6, marker="o", markersize=3, label="estimate")
    part.legend(handles=[truth, estimate], loc="outside upper center", ncols=2)


@style.says_simulated
def link_delays(run: Run) -> Figure:
    """How far the own delay of each direction of a link was from the asked one: the middle 80 % of its messages.

    A triangle is the median message. The cross is the quarter of the run in which the link was farthest off. In the
    band no run is called unfaithful.
    """
    with style.paper():
        rows = run.delays[run.delays["p50_s"].notna()]
        links = sorted(_links(rows), key=lambda each: (natural(each[0]), each[1]))
        links = list(dict.fromkeys(links))
        drawing = style.figure(style.COLUMN_WIDTH, min(MOST_HEIGHT, 0.8 + 0.17 * max(4, len(links))))
        axes = drawing.subplots()
        if rows.empty:
            style.say_empty(axes, "no link carried enough messages")
            return drawing
        quarters = {"down": "farthest quarter"} if rows["farthest_s"].notna().any() else {}
        for direction, lane, marker, colour in zip(
            ("up", "down"), (-0.2, 0.2), "^v", style.palette("ud").values(), strict=True
        ):
            own = rows[rows["direction"] == direction]
            places = np.array([links.index(each) + lane for each in _links(own)])
            off = {name: (own[f"{name}_s"] - own["asked_s"]) * MS for name in ("p10", "p50", "p90", "farthest")}
            axes.hlines(places, off["p10"], off["p90"], color=colour, linewidth=1.2, gid="spread")
            axes.scatter(off["p50"], places, s=12, marker=marker, color=colour, zorder=3, label=direction, linewidths=0)
            axes.scatter(off["farthest"], places, s=14, marker="x", color=style.ALARM, linewidths=0.8, zorder=4,
                         label=quarters.get(direction), gid="farthest")  # fmt: skip
        axes.axvspan(-ALWAYS_ALLOWED_MS, ALWAYS_ALLOWED_MS, color=style.GREY, alpha=0.2, linewidth=0)
        axes.axvline(0, color=style.GREY, linewidth=0.6, zorder=0, gid="asked")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -1.2 * ALWAYS_ALLOWED_MS), max(high, 1.2 * ALWAYS_ALLOWED_MS))
        axes.set_yticks(range(len(links)), [f"{device} ({1e3 * asked_s:g} ms)" for device, asked_s in links])
        axes.set_ylim(len(links) - 0.5, -0.5)
        axes.set_xlabel("Own one-way delay, beyond what was asked (ms)")
        drawing.legend(loc="outside upper center", ncols=3)
        return drawing


def _links(rows: pd.DataFrame) -> list[tuple[str, float]]:
    """For each row its link and the delay that was asked."""
    return list(zip(rows["device"].astype(str), rows["asked_s"].astype(float), strict=True))
