"""The figure of each device's memory: what is in use, what blocks need, their budget, and a co-located process."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from testbed.analysis.load import Run
from testbed.analysis.metrics import MIB
from testbed.analysis.plots import style
from testbed.analysis.plots.marks import Mark, draw_oom, oom_mark, trace_handle, trace_marks

OWN = "In use above the budget is the worker's own memory, for which each device has a reserve."


@style.says_simulated
def memory(run: Run) -> Figure:
    """A panel for each device: memory in use (filled), the budget (line), and the ballast (hatched, from the top).

    The budget is for what blocks need (dotted). What was measured to be in use is more by what the worker itself needs.
    The ballast hangs from the largest budget that the device ever had, so a device is full where the two meet. A dashed
    vertical line marks a trace step of memory, and a red one the OOM kill. Up to four devices share a scale.
    """
    with style.paper():
        devices = [device for device in style.devices_of(run) if (run.devices["device"] == device).any()]
        rows, columns = style.grid_of(len(devices))
        drawing = style.figure(style.FULL_WIDTH, 1.75 * rows + 0.35)
        panels = drawing.subplots(rows, columns, sharex=True, sharey=rows == 1, squeeze=False).ravel()
        if not devices:
            style.say_empty(panels[0], "the run has no memory samples")
            return drawing
        colours = style.palette(style.devices_of(run))
        killed = oom_mark(run)
        changes = [mark for mark in trace_marks(run) if "memory" in mark.text]
        for index, (axes, device) in enumerate(zip(panels, devices, strict=False)):
            samples = run.devices[run.devices["device"] == device].sort_values("t_s", kind="stable")
            _panel(axes, samples, colours[device])
            axes.set_title(f"Device {device}", loc="left", pad=3)
            _mark(axes, device, changes, killed)
            axes.tick_params(labelbottom=index + columns >= len(devices))
            shown = samples if rows > 1 else run.devices  # many devices have scales of their own
            axes.set_ylim(0, 1.08 * shown[["budget_bytes", "ledger_bytes"]].max().max() / MIB)
        for axes in panels[len(devices) :]:
            axes.set_axis_off()
        panels[0].set_xlim(min(0.0, run.devices["t_s"].min()), run.devices["t_s"].max() * 1.06 or 1.0)
        drawing.supxlabel(
            "Emulated time since token 0 (s)" + (f"\n{OWN}" if _more_than_budget(run) else ""), fontsize=8
        )
        drawing.supylabel("Memory (MiB)", fontsize=8)
        ballast = Patch(facecolor="white", edgecolor=style.GREY, hatch="////", label="ballast")
        drawing.legend(
            handles=[
                Patch(facecolor="#777777", alpha=0.55, label="in use" if run.simulated else "in use, measured"),
                Line2D([], [], color=style.DARK, linewidth=1.1, label="budget"),
                Line2D(
                    [], [], color=style.DARK, linewidth=0.8, linestyle=(0, (1, 1)), label="blocks need (weights, KV)"
                ),
                *([ballast] if (run.devices["ballast_bytes"].fillna(0) > 0).any() else []),
                *([trace_handle(changes)] if changes else []),
                *([Line2D([], [], color=style.ALARM, label=killed.text)] if killed else []),
            ],
            loc="outside upper center",
            ncols=6,
            columnspacing=1.2,
            handlelength=1.6,
        )
        return drawing


def _more_than_budget(run: Run) -> bool:
    """Whether more is in use somewhere than the budget of blocks that themselves keep to it."""
    sizes = run.devices[["ledger_bytes", "budget_bytes", "predicted_bytes"]].dropna()
    kept = sizes["predicted_bytes"] <= sizes["budget_bytes"]
    return bool((kept & (sizes["ledger_bytes"] > sizes["budget_bytes"])).any())


def _panel(axes: Axes, samples: pd.DataFrame, colour: object) -> None:
    time = samples["t_s"].to_numpy(float)
    size = {
        name: (samples[f"{name}_bytes"].astype("Float64") / MIB).to_numpy(float, na_value=float("nan"))
        for name in ("ledger", "budget", "ballast", "predicted")
    }
    axes.fill_between(time, 0, size["ledger"], step="post", color=colour, alpha=0.55, linewidth=0, gid="ledger")
    axes.plot(time, size["ledger"], drawstyle="steps-post", color=colour, linewidth=1.0, gid="ledger-line")
    axes.plot(
        time, size["predicted"], drawstyle="steps-post", color=style.DARK, linewidth=0.8, linestyle=(0, (1, 1)),
        gid="predicted",
    )  # fmt: skip
    axes.plot(time, size["budget"], drawstyle="steps-post", color=style.DARK, linewidth=1.1, gid="budget")
    if (size["ballast"] > 0).any():
        top = float(samples["budget_bytes"].max()) / MIB
        axes.fill_between(
            time, top - size["ballast"], top, where=size["ballast"] > 0, step="post", facecolor="none",
            edgecolor=style.GREY, hatch="////", linewidth=0.4, gid="ballast",
        )  # fmt: skip


def _mark(axes: Axes, device: str, changes: list[Mark], killed: Mark | None) -> None:
    for mark in changes:
        if any(line.startswith(f"{device}: memory") for line in mark.text.split("\n")):
            axes.axvline(mark.t_s, color=style.GREY, linewidth=0.7, linestyle=(0, (2, 2)), zorder=0.5, gid="trace-step")
    if killed and killed.text.endswith(f" {device}"):
        draw_oom(axes, killed.t_s)
