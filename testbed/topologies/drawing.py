"""Draws a topology as SVG for a page, which chooses its colours by the classes `link`, `device`, `source` and `switch`.

`figure` draws the same for files, with matplotlib.
"""

from __future__ import annotations

from html import escape

from testbed.topologies.figure import LABEL_AT, positions
from testbed.topologies.graph import device_lines, edges, switch_lines
from testbed.topologies.model import Topology

CHARACTER, LINE = 6.4, 15.0  # pixels of a character, and from line to line, at a font size of 11 pixels
PADDING = 8.0
LEAST_RADIUS, RADIUS_PER_DEVICE = 190.0, 22.0  # pixels; devices side by side on the circle do not touch
WIDER = 1.3  # than high
MARGIN = 90.0  # pixels around the ellipse, for half a device


def svg(topology: Topology) -> str:
    """The topology as an `svg` element that is as wide as its place on the page."""
    high = max(LEAST_RADIUS, RADIUS_PER_DEVICE * len(topology.devices))
    wide = WIDER * high
    where = {name: (wide * x, -high * y) for name, (x, y) in positions(topology).items()}
    parts = []
    labels = []
    for one, other, told in edges(topology):
        (x1, y1), (x2, y2) = where[one], where[other]
        parts.append(f'<line class="link" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
        labels.append(_box("label", x1 + LABEL_AT * (x2 - x1), y1 + LABEL_AT * (y2 - y1), told))
    parts += labels
    parts += [_box("switch", *where[switch], switch_lines(topology, switch)) for switch in topology.switches]
    for device in topology.devices:
        kind = "source" if device.name == topology.source else "device"
        parts.append(_box(kind, *where[device.name], device_lines(topology, device)))
    left, top = -wide - MARGIN, -high - MARGIN
    return (
        f'<svg class="topology" role="img" viewBox="{left:.0f} {top:.0f} {-2 * left:.0f} {-2 * top:.0f}">'
        f"<title>{escape(topology.name)}</title>{''.join(parts)}</svg>"
    )


def _box(kind: str, x: float, y: float, lines: list[str]) -> str:
    """Lines of text in a box around a point."""
    if not lines:
        return ""
    width = CHARACTER * max(map(len, lines)) + 2 * PADDING
    height = LINE * len(lines) + PADDING
    first = y - height / 2 + PADDING / 2 + 0.75 * LINE  # the baseline of the first line
    text = "".join(
        f'<text x="{x:.1f}" y="{first + LINE * number:.1f}">{escape(line)}</text>' for number, line in enumerate(lines)
    )
    corner = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}"'
    return f'<g class="{kind}"><rect {corner} width="{width:.1f}" height="{height:.1f}" rx="6"/>{text}</g>'
