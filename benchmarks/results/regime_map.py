"""Draws the map of where placing heads and FFN shards is faster than the best placement of whole layers."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm

from benchmarks.results.cells import DELAYS_MS, MEMORIES, RATES_MBPS, SHAPES, STREAMING_GBPS
from benchmarks.results.drawing import FULL_WIDTH, drawn
from benchmarks.results.grid import GAIN

STEPS = (1.0, 1.05, GAIN, 1.3, 1.5, 2.0, 4.0)  # of the time ratio
COLOURS = "cividis_r"  # readable for everyone, also in grey


def draw(name: str, cells: pd.DataFrame) -> None:
    """Draw a panel for each model, memory and streaming rate; a number is the geometric mean over the other keys."""
    from matplotlib import colormaps

    norm = BoundaryNorm(STEPS, colormaps[COLOURS].N)
    kinds = [(shape, memory) for shape in SHAPES for memory in MEMORIES]
    with drawn(name, FULL_WIDTH, 5.6, rows=len(kinds), columns=len(STREAMING_GBPS)) as (figure, panels):
        spots = [(kind, streaming) for kind in kinds for streaming in STREAMING_GBPS]
        for axes, ((shape, memory), streaming) in zip(panels, spots, strict=True):
            own = cells[
                (cells["shape"] == shape) & (cells["memory"] == memory) & (cells["streaming_GBps"] == streaming)
            ]
            _panel(axes, own, norm)
            axes.set_title(f"{shape}, {memory}, {streaming} GB/s")
        for axes in panels[-len(STREAMING_GBPS) :]:
            axes.set_xlabel("one-way delay of each link, ms")
        for axes in panels[:: len(STREAMING_GBPS)]:
            axes.set_ylabel("link rate,\nMbit/s")
        bar = figure.colorbar(ScalarMappable(norm, COLOURS), ax=panels, shrink=0.5, aspect=30, pad=0.01, ticks=STEPS)
        bar.set_label("time per token, best whole layers over headroom")
        bar.ax.set_yticklabels([f"{step:g}" for step in STEPS])
        bar.outline.set_linewidth(0.4)


def _panel(axes: Axes, own: pd.DataFrame, norm: BoundaryNorm) -> None:
    from matplotlib import colormaps
    from numpy import exp, log

    means = {
        key: float(exp(log(gains.dropna()).mean())) for key, gains in own.groupby(["delay_ms", "rate_Mbps"])["gain"]
    }
    for column, delay_ms in enumerate(DELAYS_MS):
        for row, rate_Mbps in enumerate(RATES_MBPS):
            gain = means.get((delay_ms, rate_Mbps))
            if gain is None or gain != gain:
                axes.text(column, row, "-", ha="center", va="center", fontsize=6, color="#7f7f7f")
                continue
            colour = colormaps[COLOURS](norm(min(max(gain, STEPS[0]), STEPS[-1] - 1e-6)))
            axes.fill([column - 0.5, column + 0.5, column + 0.5, column - 0.5],
                      [row - 0.5, row - 0.5, row + 0.5, row + 0.5], color=colour, linewidth=0)  # fmt: skip
            dark = 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] < 0.5
            axes.text(
                column, row, f"{gain:.2f}", ha="center", va="center", fontsize=6, color="#ffffff" if dark else "#000000"
            )
    _border(axes, means)
    axes.set_xlim(-0.5, len(DELAYS_MS) - 0.5)
    axes.set_ylim(-0.5, len(RATES_MBPS) - 0.5)
    axes.set_xticks(range(len(DELAYS_MS)), [f"{one:g}" for one in DELAYS_MS])
    axes.set_yticks(range(len(RATES_MBPS)), [str(one) for one in RATES_MBPS])


def _border(axes: Axes, means: dict[Any, float]) -> None:
    """Draw a line between neighbouring cells if only one of them gains."""

    def gains(column: int, row: int) -> bool | None:
        inside = 0 <= column < len(DELAYS_MS) and 0 <= row < len(RATES_MBPS)
        found = means.get((DELAYS_MS[column], RATES_MBPS[row])) if inside else None
        return None if found is None else found >= GAIN

    for column in range(len(DELAYS_MS)):
        for row in range(len(RATES_MBPS)):
            here, right, above = gains(column, row), gains(column + 1, row), gains(column, row + 1)
            for there, x, y in ((right, (0.5, 0.5), (-0.5, 0.5)), (above, (-0.5, 0.5), (0.5, 0.5))):
                if here is not None and there is not None and here != there:
                    axes.plot([column + x[0], column + x[1]], [row + y[0], row + y[1]], color="#d62728", linewidth=1.6)
