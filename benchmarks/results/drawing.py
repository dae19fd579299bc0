"""How the results' figures look: sizes and fonts of `analysis.plots`, one colour and marker for each policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results.store import ROOT
from testbed.analysis.plots.style import COLUMN_WIDTH, FULL_WIDTH, figure, marker_of, palette, paper
from testbed.placement.policies import POLICIES

__all__ = ["COLUMN_WIDTH", "FULL_WIDTH", "colour", "drawn", "marker"]

IMAGES = ROOT / "docs" / "img"
# Those that are told apart most often have the colours that differ most; the others share grey tones and a marker each.
_COLOURED = (
    "headroom", "resource-aware", "layerwise", "edgeshard", "galaxy", "static", "greedy", "exact", "tensor-parallel",
    "round-robin",
)  # fmt: skip
_GREY = "#7f7f7f"


def colour(policy: str) -> object:
    """A policy's colour, the same in every figure."""
    return palette(_COLOURED).get(policy, _GREY)


def marker(policy: str) -> str:
    """A policy's marker, the same in every figure."""
    return marker_of(list(POLICIES).index(policy))


def part_colours() -> dict[str, str]:
    """The colours of the parts of a token's latency."""
    return {"compute": "#0173b2", "transfer": "#de8f05", "software": "#949494"}


@contextmanager
def drawn(
    name: str, width: float, height: float, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure to draw on, in inches, written to docs/img/results-NAME.png in the end; its axes row by row."""
    with paper():
        matplotlib.use("agg")
        fig = figure(width, height)
        axes = fig.subplots(rows, columns, squeeze=False)
        yield fig, list(axes.flat)
        IMAGES.mkdir(parents=True, exist_ok=True)
        # No software version or date in the file: the same data give the same bytes.
        fig.savefig(IMAGES / f"results-{name}.png", metadata={"Software": None})


def image(name: str, alt: str) -> str:
    """The Markdown that shows it on the page."""
    return f"![{alt}](img/results-{name}.png)"


def images() -> list[Path]:
    """All that were drawn."""
    return sorted(IMAGES.glob("results-*.png"))
