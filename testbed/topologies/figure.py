"""Draws a topology with matplotlib: devices on a circle, switches inside it near their devices."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from testbed.topologies.graph import device_lines, edges, switch_lines
from testbed.topologies.model import Topology

INNER = 0.3  # radius of the circle of switches; devices have 1
LABEL_AT = 0.4  # of a link, from its first end: two links that cross in the middle keep their labels apart
INCHES_PER_DEVICE = 0.45
LEAST_INCHES, MOST_INCHES = 6.0, 20.0
DOTS_PER_INCH = 150
DEVICE, SOURCE, SWITCH = "#e8f0fe", "#fde7c8", "#e6e6e6"


def positions(topology: Topology) -> dict[str, tuple[float, float]]:
    """The place of each node: devices on the unit circle, each switch near the mean of its devices."""
    count = len(topology.devices)
    angles = {device.name: math.pi / 2 - 2 * math.pi * number / count for number, device in enumerate(topology.devices)}
    found = {name: (math.cos(angle), math.sin(angle)) for name, angle in angles.items()}
    for switch in topology.switches:
        near = [cable.beyond(switch) for cable in topology.links if switch in cable.ends]
        own = [found[name] for name in near if name in angles]
        if len(topology.switches) == 1 or not own:
            found[switch] = (0.0, 0.0)
            continue
        x, y = (sum(values) / len(own) for values in zip(*own, strict=True))
        length = math.hypot(x, y) or 1.0
        found[switch] = (INNER * x / length, INNER * y / length)
    return found


def draw(topology: Topology, out: Path, form: str) -> None:
    """Write a picture of the topology as png, svg or pdf."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    inches = min(MOST_INCHES, max(LEAST_INCHES, INCHES_PER_DEVICE * len(topology.devices)))
    figure = Figure(figsize=(inches, inches))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-1.35, 1.35)
    axes.set_ylim(-1.35, 1.35)
    where = positions(topology)
    for one, other, told in edges(topology):
        (x1, y1), (x2, y2) = where[one], where[other]
        axes.plot([x1, x2], [y1, y2], color="#555555", linewidth=1.2, zorder=1)
        x, y = x1 + LABEL_AT * (x2 - x1), y1 + LABEL_AT * (y2 - y1)
        axes.text(x, y, "\n".join(told), fontsize=7, ha="center", va="center",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0}, zorder=2)  # fmt: skip
    for switch in topology.switches:
        box: dict[str, Any] = {"boxstyle": "circle", "facecolor": SWITCH, "edgecolor": "#333333"}
        axes.text(
            *where[switch],
            "\n".join(switch_lines(topology, switch)),
            fontsize=8,
            ha="center",
            va="center",
            bbox=box,
            zorder=3,
        )
    for device in topology.devices:
        source = device.name == topology.source
        box = {"boxstyle": "round,pad=0.4", "facecolor": SOURCE if source else DEVICE, "edgecolor": "#333333",
               "linewidth": 2.0 if source else 1.0}  # fmt: skip
        text = "\n".join(device_lines(topology, device))
        axes.text(*where[device.name], text, fontsize=8, ha="center", va="center", bbox=box, zorder=3)
    figure.savefig(out, format=form, dpi=DOTS_PER_INCH)
