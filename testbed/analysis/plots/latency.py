"""The figures of token latency: over the run, and its distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from testbed.analysis.load import Run
from testbed.analysis.metrics import MS, committed, losses, mean_stalls, migrated_before, tokens_to_decode
from testbed.analysis.plots.marks import draw_oom, draw_trace_marks, most_changed, oom_mark, trace_handle, trace_marks
from testbed.analysis.plots.style import (
    ALARM,
    COLUMN_WIDTH,
    DARK,
    FULL_WIDTH,
    GREY,
    LETTERS_PER_INCH,
    LOG_SPREAD,
    MOST_LINES,
    Alike,
    alike,
    as_runs,
    dash_of,
    figure,
    folded,
    make_room,
    marker_of,
    paper,
    plain_log_ticks,
    policies,
    policy_colours,
    run_names,
    say_empty,
    says_simulated,
    whole_numbers,
)

FADED = 0.5  # of the stalls of each further group of a policy
BAR_TOKENS = 0.8  # tokens; the width of a stall's bar
LONGEST_NAME = 45  # letters, in a legend inside the axes
MARKER_LETTERS = 6  # for which a marker in a legend takes the room
MARKERS = 12  # on the mean of many runs
MARK_EVERY = 8  # tokens between two markers, which tell lines apart without colour
BEHIND: Any = {"frameon": True, "framealpha": 0.9, "edgecolor": "none"}  # of legends that lie over lines
PERCENTS = (50, 95)  # marked on the distributions
KILL_LABEL_POINTS = 9  # points between the labels of two kills, so that they do not overlap
MOST_BARS = 250  # of stalls beside each other; a narrower one could not be seen
LOG_LEGEND_ROOM = 0.25  # of the range of a logarithmic axis, kept free above it for the legend


@says_simulated
def token_latency(runs: Run | Sequence[Run]) -> Figure:
    """The decode latency of each token, with a line for each run, and below it the mean stall of like runs.

    A triangle marks a token before which blocks were migrated, a dashed line a trace step, a cross an OOM kill, and a
    falling triangle a token that was repeated because a device was lost. Of many runs, those that differ in their seeds
    at most are one line, the mean, in a band from the least to the most.
    """
    runs = as_runs(runs)
    with paper():
        names = run_names(runs)
        groups = alike(runs)
        stalled = {group.name: (group, stall) for group in groups if len(stall := mean_stalls(group.runs))}
        stalls = bool(stalled)
        drawing = figure(FULL_WIDTH, 3.1 if stalls else 2.5)
        main, *strip = drawing.subplots(
            2 if stalls else 1, 1, sharex=True, squeeze=False, height_ratios=[4, 1] if stalls else [1]
        )[:, 0]
        colours = policy_colours(policies(runs))
        handles: list[Line2D] = []
        kills = repeated = 0
        many = len(runs) > MOST_LINES
        if many:
            handles += [_band(main, group, colours[group.policy], place) for place, group in enumerate(groups)]
        for index, (run, name) in enumerate(zip(runs, names, strict=True) if not many else ()):
            colour, order = colours[run.policy], policies(runs).index(run.policy)
            earlier = [other.policy for other in runs[:index]].count(run.policy)
            line = _latency_line(main, run, name, colour, marker_of(order), 3 - 0.01 * index)
            line.set_linestyle(dash_of(earlier))
            kills += _kill(main, run, name, kills)
            repeated += _losses(main, run, label=not repeated)
            handles.append(line)
        decoded = [latency for run in runs for latency in run.decoded["latency_s"] * MS]
        if not decoded:
            say_empty(main, "no token was decoded")
            return drawing
        _scale(main, min(decoded), max(decoded))
        longest = max(run.tokens_asked or len(run.tokens) for run in runs)
        main.set_xlim(0, longest)
        main.xaxis.set_major_locator(whole_numbers())
        changed = most_changed(runs)
        marks = trace_marks(changed)
        mixed = len({run.fact("experiment_name") for run in runs}) > 1
        draw_trace_marks(main, marks, labels=not mixed)
        if not many and any(len(committed(run)) for run in runs):
            handles.append(Line2D([], [], marker="^", color="white", markerfacecolor=DARK, label="blocks migrated"))
        if repeated:
            handles.append(Line2D([], [], marker="v", color="white", markerfacecolor=ALARM, label="device lost"))
        if marks:
            handles.append(trace_handle(marks, f" of {changed.fact('experiment_name')}" if mixed else ""))
        _legend(drawing, main, handles)
        bottom = main
        if strip:
            bottom = strip[0]
            width = max(BAR_TOKENS, longest / MOST_BARS)
            for number, (group, stall) in enumerate(stalled.values()):  # the bars of one token stand side by side
                middle = (number - (len(stalled) - 1) / 2) * width
                bottom.bar(
                    stall.index + middle, stall, width=width, color=colours[group.policy],
                    alpha=FADED**group.earlier, linewidth=0, gid="stall",
                )  # fmt: skip
            draw_trace_marks(bottom, marks, labels=False)
            bottom.set_ylabel("Stall (s)")
        bottom.set_xlabel("Token")
        drawing.align_ylabels()
        return drawing


def _scale(axes: Axes, least_ms: float, most_ms: float) -> None:
    axes.set_ylabel("Token latency (ms)")
    if most_ms > LOG_SPREAD * least_ms > 0:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        spread = most_ms / least_ms
        axes.set_ylim(least_ms / spread**0.05, most_ms * spread**LOG_LEGEND_ROOM)
    else:
        axes.set_ylim(0, 1.05 * most_ms)


def _legend(drawing: Figure, axes: Axes, handles: list[Line2D]) -> None:
    """A legend over the lines, or above them where long names would hide them."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    if longest > LONGEST_NAME:
        for handle in handles:
            handle.set_label(folded(str(handle.get_label()), FULL_WIDTH))
        drawing.legend(handles=handles, loc="outside upper left", ncols=1)
        make_room(drawing, [handle.get_label() for handle in handles])
        return
    loc: Literal["upper left", "lower left"] = "upper left" if axes.get_yscale() == "log" else "lower left"
    fitting = int(LETTERS_PER_INCH * FULL_WIDTH) // (longest + MARKER_LETTERS)
    axes.legend(handles=handles, loc=loc, ncols=max(1, min(len(handles), 4, fitting)), **BEHIND)


@says_simulated
def latency_ecdf(runs: Run | Sequence[Run]) -> Figure:
    """The distribution of decode latency over the tokens asked for, with a line for runs that differ in seeds at most.

    Tokens that a killed run still owes count as never done, so its line ends below 1, in a cross.
    """
    runs = as_runs(runs)
    with paper():
        drawing = figure(COLUMN_WIDTH, 2.6)
        axes = drawing.subplots()
        colours = policy_colours(policies(runs))
        low, high = np.inf, 0.0
        handles: list[Line2D] = []
        for index, group in enumerate(alike(runs)):
            colour, dash = colours[group.policy], dash_of(group.earlier)
            latency = np.sort(np.concatenate([(run.decoded["latency_s"] * MS).to_numpy() for run in group.runs]))
            if not len(latency):
                continue
            low, high = min(low, latency[0]), max(high, latency[-1])
            label = folded(f"{group.name} ({_tokens_text(group.runs)})", COLUMN_WIDTH)
            share = np.arange(len(latency) + 1) / tokens_to_decode(group.runs)
            axes.plot(
                [latency[0], *latency], share, color=colour, linewidth=1.3, linestyle=dash, drawstyle="steps-post"
            )
            if share[-1] < 1:
                axes.plot(latency[-1], share[-1], "x", color=ALARM, markersize=5, zorder=5, gid="unfinished")
            reached = [percent / 100 for percent in PERCENTS if percent / 100 <= share[-1]]
            axes.plot(
                latency[np.searchsorted(share[1:], reached)], reached, marker=marker_of(index), markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.6, linestyle="none", color=colour, zorder=4,
                gid="percentiles",
            )  # fmt: skip
            handles.append(
                Line2D([], [], color=colour, linestyle=dash, marker=marker_of(index), markersize=4, label=label)
            )
        if not high:
            say_empty(axes, "no token was decoded")
            return drawing
        for percent in PERCENTS:
            axes.axhline(percent / 100, color=GREY, linewidth=0.5, linestyle=(0, (1, 2)), zorder=0, gid="guide")
            axes.annotate(
                f"p{percent}", (1.0, percent / 100), xycoords=("axes fraction", "data"), fontsize=6.5, color=DARK,
                xytext=(2, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        if high > LOG_SPREAD * low:
            axes.set_xscale("log")
            plain_log_ticks(axes.xaxis)
        axes.set_xlabel("Token latency (ms)")
        axes.set_ylabel("Share of the tokens asked for")
        axes.set_ylim(0, 1.02)
        axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
        make_room(drawing, [handle.get_label() for handle in handles])
        return drawing


def _latency_line(axes: Axes, run: Run, name: str, colour: Any, marker: str, zorder: float) -> Line2D:
    decoded = run.decoded
    steps, latency = decoded["step"].to_numpy(), (decoded["latency_s"] * MS).to_numpy()
    (line,) = axes.plot(
        steps, latency, color=colour, marker=marker, markersize=3, markevery=(MARK_EVERY // 2, MARK_EVERY), label=name,
        zorder=zorder, gid="latency",
    )  # fmt: skip
    by_step = dict(zip(steps, latency, strict=True))
    moved = [step for step in sorted(migrated_before(run)) if step in by_step]
    axes.plot(
        moved, [by_step[step] for step in moved], marker="^", markersize=5.5, color=colour, markeredgecolor="white",
        markeredgewidth=0.6, linestyle="none", zorder=5, gid="migrations",
    )  # fmt: skip
    return line


def _band(axes: Axes, group: Alike, colour: Any, place: int) -> Line2D:
    """The mean and the range of like runs, of those that came as far as a token; returns the legend's entry."""
    every = pd.concat([run.decoded[["step", "latency_s"]] for run in group.runs])
    found = every.groupby("step")["latency_s"].agg(["mean", "min", "max"]) * MS
    early = sum(run.status != "done" for run in group.runs)
    ended = f", {early} of {len(group.runs)} ended early" if early else ""
    axes.fill_between(found.index, found["min"], found["max"], color=colour, alpha=0.18, linewidth=0, gid="range")
    (line,) = axes.plot(
        found.index, found["mean"], color=colour, linestyle=dash_of(group.earlier), marker=marker_of(place),
        markersize=3, markevery=max(1, len(found) // MARKERS), label=f"{group.name}{ended}", zorder=3, gid="latency",
    )  # fmt: skip
    return line


def _kill(axes: Axes, run: Run, name: str, earlier: int) -> bool:
    """Mark the OOM kill of a run, if any, with a label below those of `earlier` kills; returns whether it has one."""
    killed, decoded = oom_mark(run), run.decoded
    if killed is None or decoded.empty:
        return False
    last = decoded.iloc[-1]
    text = f"{name}: {killed.text}" if name else ""
    draw_oom(axes, float(last["step"]), float(last["latency_s"] * MS), text, drop_points=KILL_LABEL_POINTS * earlier)
    return bool(text)


def _losses(axes: Axes, run: Run, label: bool) -> int:
    """Mark the tokens that were repeated after losses, with the devices' names if asked; returns their number."""
    by_step = dict(zip(run.decoded["step"], run.decoded["latency_s"] * MS, strict=True))
    steps = [step for step in dict.fromkeys(run.recoveries["step"]) if step in by_step]
    axes.plot(
        steps, [by_step[step] for step in steps], marker="v", markersize=6, color=ALARM, markeredgecolor="white",
        markeredgewidth=0.6, linestyle="none", zorder=6, gid="losses",
    )  # fmt: skip
    lost = losses(run) if label else {}
    for step in steps:
        if step in lost:
            axes.annotate(
                f"{lost[step]} lost", (step, by_step[step]), xytext=(0, 6), textcoords="offset points", ha="center",
                fontsize=6.5, color=ALARM,
            )  # fmt: skip
    return len(steps)


def _tokens_text(runs: Sequence[Run]) -> str:
    made, asked = sum(len(run.decoded) for run in runs), tokens_to_decode(runs)
    return f"{made:,} tokens" if made >= asked else f"{made:,} of {asked:,} tokens"
