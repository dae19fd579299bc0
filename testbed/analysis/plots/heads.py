"""The figure of each block's device, token by token."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from testbed.analysis.load import Run
from testbed.analysis.plots.marks import MOST_DASHED, draw_oom, draw_trace_marks, oom_mark, trace_marks
from testbed.analysis.plots.style import (
    FULL_WIDTH,
    devices_of,
    figure,
    palette,
    paper,
    say_empty,
    says_simulated,
    whole_numbers,
)

_BLOCK = re.compile(r"(\w+)\((\d+)(?:,(\w+))?\)")
_KIND_ORDER = {"head": 0, "proj": 1, "ffn": 2, "sum": 3, "vocab": 4}
_TITLES = {"head": "Heads of layer", "proj": "proj", "ffn": "FFN", "sum": "Sums", "vocab": "LM head"}
_MOST_TICKS = 12
_LAYER_GAP = 0.9  # points; the white line between layers
_FULL_GAP_ROWS = 150  # with more rows, the line is thinner, so that it does not hide them
_MOST_LONG_NAMES = 8
MOST_BLOCKS, MOST_DEVICES = 400, 12  # more are counted by device and not drawn one by one
MOST_NAMES = 30  # of devices beside an axis
COUNT_COLOURS = "cividis"  # also for readers who are colour-blind


@says_simulated
def placement_map(run: Run) -> Figure:
    """The blocks (rows, layer by layer) over tokens, in the colour of the device that owns them.

    Each kind of block has a panel. White lines separate the layers. If blocks or devices are many, a row is a device,
    and its colour says how many blocks it holds.
    """
    with paper():
        drawing = figure(FULL_WIDTH, 4.4)
        if run.placements.empty or run.tokens.empty:
            say_empty(drawing.subplots(), "the run has no placement")
            return drawing
        blocks = _blocks(run.placements)
        if len(blocks) > MOST_BLOCKS or len(devices_of(run)) > MOST_DEVICES:
            _count_map(drawing, run)
            return drawing
        kinds = list(dict.fromkeys(blocks["kind"]))
        heights = [4.0 if kind == "head" else 1.0 for kind in kinds]
        panels = drawing.subplots(len(kinds), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        colours = palette(devices_of(run))
        edges, owners = _over_tokens(run, list(colours))
        for axes, kind in zip(panels, kinds, strict=True):
            _panel(axes, blocks[blocks["kind"] == kind], edges, owners, list(colours.values()))
            axes.set_ylabel(_TITLES.get(kind, kind))
        killed = oom_mark(run)
        for index, axes in enumerate(panels):
            draw_trace_marks(axes, trace_marks(run), labels=index == 0, colour="black", zorder=3)
            if killed:
                draw_oom(axes, edges[-1], text=killed.text if index == 0 else "")
        panels[-1].set_xlim(0, max(run.tokens_asked or 0, edges[-1]))
        panels[-1].xaxis.set_major_locator(whole_numbers())
        panels[-1].set_xlabel("Token")
        drawing.align_ylabels()
        prefix = "device " if len(colours) <= _MOST_LONG_NAMES else ""
        drawing.legend(
            handles=[Patch(color=colour, label=f"{prefix}{device}") for device, colour in colours.items()],
            loc="outside upper right",
            ncols=min(len(colours), _MOST_LONG_NAMES if prefix else 10),
            handlelength=1.4,
        )
        return drawing


def _count_map(drawing: Figure, run: Run) -> None:
    """How many blocks each device (rows) holds over tokens."""
    axes, devices = drawing.subplots(), devices_of(run)
    edges, owners = _over_tokens(run, devices)
    counts = np.array([(owners == place).sum() for place in range(len(devices))])
    mesh = axes.pcolormesh(
        edges, np.arange(len(devices) + 1), counts, cmap=COUNT_COLOURS, vmin=0, antialiased=False, gid="counts"
    )
    marks = trace_marks(run)
    if len(marks) <= MOST_DASHED:  # a rug would hide a device
        draw_trace_marks(axes, marks, colour="white", zorder=3)
    killed = oom_mark(run)
    if killed:
        draw_oom(axes, edges[-1], text=killed.text)
    axes.set_xlim(0, max(run.tokens_asked or 0, edges[-1]))
    axes.xaxis.set_major_locator(whole_numbers())
    axes.set_xlabel("Token")
    axes.set_ylim(len(devices), 0)
    every = -(-len(devices) // MOST_NAMES)
    axes.set_yticks(np.arange(len(devices))[::every] + 0.5, devices[::every])
    axes.tick_params(axis="y", length=0)
    drawing.colorbar(mesh, ax=axes, label="Blocks on the device", pad=0.01, ticks=whole_numbers())


def _blocks(placements: pd.DataFrame) -> pd.DataFrame:
    """Each block once, kind by kind, in the order in which a token passes them."""
    names = placements["block"].drop_duplicates()
    parsed = [(name, *match.groups()) for name in names if (match := _BLOCK.fullmatch(name))]
    blocks = pd.DataFrame(parsed, columns=["block", "kind", "layer", "index"])
    blocks["layer"] = blocks["layer"].astype(int)
    blocks["number"] = pd.to_numeric(blocks["index"], errors="coerce").fillna(0)
    blocks["order"] = blocks["kind"].map(_KIND_ORDER).fillna(len(_KIND_ORDER))
    return blocks.sort_values(["order", "kind", "layer", "number"], kind="stable").reset_index(drop=True)


def _over_tokens(run: Run, devices: list[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """The tokens at which placements begin and end, and the owner's index by block (rows) and placement (columns)."""
    code = {device: number for number, device in enumerate(devices)}
    last = run.placements.groupby("step")["epoch"].transform("max")  # the later of two commits at a token
    held = run.placements[run.placements["epoch"] == last]
    owners = held.assign(code=held["device"].map(code)).pivot_table(index="block", columns="step", values="code")
    end = int(run.tokens["step"].max()) + 1
    owners = owners.loc[:, [step for step in owners.columns if int(step) < end]]
    return np.array([*owners.columns, end], dtype=float), owners


def _panel(axes: Axes, blocks: pd.DataFrame, edges: np.ndarray, owners: pd.DataFrame, colours: list[Any]) -> None:
    codes = owners.reindex(blocks["block"]).to_numpy(float)
    axes.pcolormesh(
        edges, np.arange(len(blocks) + 1), np.ma.masked_invalid(codes), cmap=ListedColormap(colours), vmin=-0.5,
        vmax=len(colours) - 0.5, antialiased=False, gid="placement",
    )  # fmt: skip
    layers = blocks["layer"].to_numpy()
    starts = np.flatnonzero(np.diff(layers, prepend=-1))
    width = _LAYER_GAP * min(1.0, _FULL_GAP_ROWS / len(blocks)) if len(blocks) > len(starts) else _LAYER_GAP / 3
    axes.hlines(starts[1:], edges[0], edges[-1], color="white", linewidth=width, gid="layers")
    middles = (starts + np.append(starts[1:], len(layers))) / 2
    every = -(-len(starts) // (_MOST_TICKS if len(blocks) > len(starts) else _MOST_TICKS // 4))
    axes.set_yticks(middles[::every], [str(layer) for layer in layers[starts][::every]])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(blocks), 0)
    axes.spines["left"].set_visible(False)


def held_blocks(run: Run) -> pd.DataFrame:
    """Which device holds each block: `block`, `device`, and the tokens `from` and `until`, in the blocks' order."""
    if run.placements.empty or run.tokens.empty:
        return pd.DataFrame({"block": [], "device": [], "from": [], "until": []})
    names = devices_of(run)
    edges, owners = _over_tokens(run, names)
    rows = []
    for block in _blocks(run.placements)["block"]:
        codes = owners.loc[block].to_numpy(float)
        begin = 0
        for place in range(1, len(codes) + 1):
            if place == len(codes) or codes[place] != codes[begin]:
                if not np.isnan(codes[begin]):
                    rows.append((block, names[int(codes[begin])], int(edges[begin]), int(edges[place])))
                begin = place
    return pd.DataFrame(rows, columns=["block", "device", "from", "until"])
