"""What a figure of the page is: rows of data, and a Vega-Lite specification that draws them.

The specification is written as Vega-Lite defines it (https://vega.github.io/vega-lite/docs/), version 6. Texts from run
folders are only ever values of rows: Vega would take a part of an expression as a program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from testbed.analysis.plots.style import GREY

Spec = dict[str, Any]

ROWS, MARKS = "rows", "marks"  # names of data sets in a specification
HEIGHT = 260  # pixels
WIDE: Spec = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}, "data": {"name": ROWS}}
"""A figure that is as wide as the page."""
SIMULATED = "Simulated: nothing was measured"
LEGEND_PIXELS, SYMBOL_PIXELS, LETTER_PIXELS = 900, 30, 6  # of a page, of a symbol with its gaps, of a letter
MOST_COLUMNS = 4  # of a legend
DIGITS = 6  # of a number in the page's data; more cannot be seen, and cost space

ZOOM: Spec = {"name": "zoom", "select": "interval", "bind": "scales"}


def mark_rule(axis: str) -> Spec:
    """Vertical lines where the world changed: the data set `marks` has the columns `at` and `change`."""
    x = {"field": "at", "type": "quantitative", "title": axis}  # of the other layers' title, so that the axis keeps one
    return {
        "data": {"name": MARKS},
        "mark": {"type": "rule", "strokeDash": [3, 3], "size": 1, "color": GREY},
        "encoding": {"x": x, "tooltip": [{"field": "change", "type": "nominal", "title": "change"}]},
    }


@dataclass(frozen=True)
class Chart:
    """One figure; `name` is that of the files that a reader saves."""

    name: str
    title: str
    told: str  # how to read it
    rows: pd.DataFrame
    spec: Spec  # without title and data
    simulated: bool  # whether all that it shows was
    marks: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def document(self) -> Spec:
        """What the page's script needs to draw it; numbers that are not finite are null."""
        title = {"text": self.title, "anchor": "start"} | ({"subtitle": SIMULATED} if self.simulated else {})
        values = [[_plain(value) for value in row] for row in self.rows.itertuples(index=False)]
        return {
            "name": self.name,
            "spec": {"title": title} | self.spec,
            "columns": [str(column) for column in self.rows.columns],
            "values": values,
            "marks": [{key: _plain(value) for key, value in mark.items()} for mark in self.marks],
        }


def quantity(name: str, title: str, **more: Any) -> Spec:
    """A number on an axis."""
    return {"field": name, "type": "quantitative", "title": title} | more


def tips(words: Mapping[str, str], numbers: Mapping[str, str]) -> list[Spec]:
    """What hovering shows: columns and their headings, first those shown as they are, then numbers in four digits."""
    shown: list[Spec] = [{"field": column, "title": heading, "type": "nominal"} for column, heading in words.items()]
    return shown + [quantity(column, heading, format=".4~g") for column, heading in numbers.items()]


def coloured(column: str, colours: Mapping[str, str], title: str | None = None) -> Spec:
    """A colour for each value of a column, named in a legend above the figure, in as many columns as have room."""
    longest = max(map(len, colours), default=0)
    columns = max(1, min(MOST_COLUMNS, LEGEND_PIXELS // (SYMBOL_PIXELS + LETTER_PIXELS * longest)))
    legend = {"orient": "top", "columns": columns, "labelLimit": LEGEND_PIXELS}
    scale = {"domain": list(colours), "range": list(colours.values())}
    return {"field": column, "type": "nominal", "title": title, "scale": scale, "legend": legend}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # a scalar of numpy
        value = value.item()
    if value is None or value is pd.NA:
        return None
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
