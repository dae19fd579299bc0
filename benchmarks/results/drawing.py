"""The look of the figures of the results: the style of `analysis.plots`, with a colour and marker for each policy."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.results.store import ROOT
from testbed.analysis.plots.style import COLUMN_WIDTH, FULL_WIDTH, figure, paper, policy_colours

__all__ = ["COLUMN_WIDTH", "FULL_WIDTH", "colour", "drawn", "marker"]

MARKERS = {
    "exact": "*", "headroom": "D", "paper": "P", "paper-search": "s", "greedy": "p", "dynamic-threshold": "h",
    "static": "o", "round-robin": "d", "single": "v", "edgeshard": "8", "layerwise": "<", "galaxy": ">",
    "tensor-parallel": "^",
}  # fmt: skip
IMAGES = ROOT / "docs" / "img"


def colour(policy: str) -> object:
    """The colour of a policy, which is the same in all figures."""
    return policy_colours([policy])[policy]


def marker(policy: str) -> str:
    """The marker of a policy, which is the same in all figures."""
    return MARKERS[policy]


def part_colours() -> dict[str, str]:
    """The colours of the parts of a token's latency."""
    return {"compute": "#0173b2", "transfer": "#de8f05", "software": "#949494"}


@contextmanager
def drawn(
    name: str, width: float, height: float, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Yield the axes, row by row, of a figure of this size in inches; then save it as docs/img/results-NAME.png."""
    with paper():
        matplotlib.use("agg")
        fig = figure(width, height)
        axes = fig.subplots(rows, columns, squeeze=False)
        yield fig, list(axes.flat)
        IMAGES.mkdir(parents=True, exist_ok=True)
        save(fig, IMAGES / f"results-{name}.png")


def save(fig: Figure, file: Path) -> None:
    """Save a figure as a PNG of at most 256 colours, which takes a third of the space and looks the same.

    The file has no version or date, so the same data give the same bytes.
    """
    whole = io.BytesIO()
    fig.savefig(whole, format="png", metadata={"Software": None})
    few = Image.open(whole).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, format="PNG", optimize=True)


def image(name: str, alt: str) -> str:
    """The Markdown that shows a figure on the page."""
    return f"![{alt}](img/results-{name}.png)"


def images() -> list[Path]:
    """All figures that were drawn."""
    return sorted(IMAGES.glob("results-*.png"))
