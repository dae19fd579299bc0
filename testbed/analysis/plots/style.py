"""The look of all figures: sizes, fonts, colours and the names of runs.

Colours come from seaborn's palette for colour-blind readers. A dash, a marker or a label also says what a colour means,
so figures can be read in black and white.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from testbed.analysis.load import AnalysisError, Run
from testbed.natural import natural

Draw = TypeVar("Draw", bound=Callable[..., Figure])

FULL_WIDTH = 7.0  # inches; the text width of a paper with two columns
COLUMN_WIDTH = 3.5  # inches; one column of it
DPI = 300
LETTERS_PER_INCH = 14  # of a legend, beside its markers
LEGEND_ROW, FEW_ROWS = 0.15, 3  # inches of a row of a legend, and rows for which figures have room
USUAL = (("kv_format", "float32"), ("wire_format", "float32"))  # of a model: not worth a word in its name
SIMULATED = "simulated"  # in a corner of figures of which nothing was measured
MOST_LINES = 8  # runs; of more, like runs are drawn as their mean and range
LOG_SPREAD = 8  # values that differ by more than this factor are drawn on a logarithmic axis
GREY, DARK, ALARM = "#9a9a9a", "#333333", "#b2182b"

# From seaborn's palette for colour-blind readers; a policy has the same colour in every figure.
POLICY_COLOURS = {
    "static": "#0173b2", "paper-search": "#de8f05", "headroom": "#029e73", "paper": "#d55e00", "edgeshard": "#cc78bc",
    "greedy": "#ca9161", "galaxy": "#56b4e9", "round-robin": "#949494", "layerwise": "#ece133", "exact": "#000000",
    "tensor-parallel": "#fbafe4", "dynamic-threshold": "#8c564b", "single": "#5b5b5b",
}  # fmt: skip

PAPER: Any = {
    **sns.axes_style("ticks"),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # it comes with matplotlib, so all machines draw the same
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a dollar sign in a name stays one
    "pdf.fonttype": 42,  # text stays text in PDF
    "svg.fonttype": "none",
    "savefig.dpi": DPI,
}

_DASHES: Any = (
    "-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)),
    (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)), (0, (8, 1, 3, 1)),
)  # fmt: skip
_MARKERS = "osDvPp*h"  # without the triangle and the cross, which mean migrations and OOM kills


def paper() -> AbstractContextManager[None]:
    """Use the style while a figure is drawn or saved; afterwards the caller's settings hold again."""
    return rc_context(PAPER)


def says_simulated(draw: Draw) -> Draw:
    """Let a function that draws runs write into the figure's corner that all of them were simulated."""

    @wraps(draw)
    def drawn(runs: Run | Sequence[Run]) -> Figure:
        drawing = draw(runs)
        if all(run.simulated for run in as_runs(runs)):
            with paper():
                drawing.text(0.995, 0.006, SIMULATED, ha="right", va="bottom", fontsize=6.5, color=DARK, gid=SIMULATED)
        return drawing

    return cast(Draw, drawn)


def figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, with constrained layout."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def as_runs(runs: Run | Sequence[Run]) -> list[Run]:
    """One run or several as a list; raises AnalysisError if there is none."""
    found = [runs] if isinstance(runs, Run) else list(runs)
    if not found:
        raise AnalysisError("there is nothing to draw: give at least one run")
    return found


def palette(names: Iterable[str]) -> dict[str, Any]:
    """A colour for each name, in the given order."""
    listed = list(dict.fromkeys(names))
    colours = sns.color_palette("colorblind", 10) if len(listed) <= 10 else sns.color_palette("husl", len(listed))
    return dict(zip(listed, colours, strict=False))


def policy_colours(names: Iterable[str]) -> dict[str, Any]:
    """The colour of each policy, the same in every figure; policies that are not ours get others."""
    listed = list(dict.fromkeys(names))
    own = [name for name in listed if name not in POLICY_COLOURS]
    others = dict(zip(own, sns.color_palette("husl", max(1, len(own))), strict=False))
    return {name: POLICY_COLOURS.get(name) or others[name] for name in listed}


def marker_of(index: int) -> str:
    """The marker of a line by its index; neighbours differ."""
    return _MARKERS[index % len(_MARKERS)]


def dash_of(index: int) -> Any:
    """The dash of a run by its index among the runs of a policy; the first is solid."""
    return _DASHES[index % len(_DASHES)]


def policies(runs: Sequence[Run]) -> list[str]:
    """The policies of the runs, each once, in their order."""
    return list(dict.fromkeys(run.policy for run in runs))


def run_names(runs: Sequence[Run]) -> list[str]:
    """A distinct name for each run: its policy, and as needed what else it is of, settings, seed or a number."""
    names = [run.policy for run in runs]
    for add in (*_POOLED_BY, None, _seed_of):
        repeated = {name for name, count in Counter(names).items() if count > 1}
        more = [add(run) for run in runs] if add is not None else _settings_that_differ(runs, names)
        if len(set(more)) > 1:
            names = [
                f"{name}, {extra}" if name in repeated and extra else name
                for name, extra in zip(names, more, strict=True)
            ]
    seen: Counter[str] = Counter()
    counts = Counter(names)
    for index, name in enumerate(names):
        seen[name] += 1
        if counts[name] > 1:
            names[index] = f"{name} #{seen[name]:0{len(str(counts[name]))}}"
    return names


def slug(name: str) -> str:
    """A run's name as a part of file names."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


@dataclass(frozen=True)
class Alike:
    """Runs whose tokens may be pooled: only seeds differ, and what is drawn from them."""

    policy: str
    name: str  # the policy, and what sets these runs apart from the others
    runs: list[Run]
    earlier: int  # the number of groups of this policy before it


def alike(runs: Sequence[Run]) -> list[Alike]:
    """The runs in groups that may be pooled, in their order."""
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((run.policy, *(of(run) or "" for of in _POOLED_BY)), []).append(run)
    told = [place for place in range(1, 1 + len(_POOLED_BY)) if len({key[place] for key in found}) > 1]
    before: Counter[str] = Counter()
    groups = []
    for key, every in found.items():
        policy = key[0]
        by_settings: dict[str, list[Run]] = {}
        for run, settings in zip(every, _settings_that_differ(every), strict=True):
            by_settings.setdefault(settings, []).append(run)
        for settings, own in by_settings.items():
            name = ", ".join([policy, *(key[p] for p in told if key[p]), *([settings] if settings else [])])
            groups.append(Alike(policy, name, own, before[policy]))
            before[policy] += 1
    return groups


def _settings_that_differ(runs: Sequence[Run], groups: Sequence[str] | None = None) -> list[str]:
    """For each run the settings in which runs of its group differ, such as `interval 4`; by default of one group."""
    groups = groups or [""] * len(runs)
    settings = [_settings_of(run) for run in runs]
    by_group: dict[str, list[dict[str, str]]] = {}
    for group, own in zip(groups, settings, strict=True):
        by_group.setdefault(group, []).append(own)
    differing = {group: _differing(others) for group, others in by_group.items()}
    return [
        ", ".join(f"{key} {own.get(key, 'default')}" for key in differing[group])
        for group, own in zip(groups, settings, strict=True)
    ]


def _differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys whose values differ. A section that an older run does not have differs from none."""
    known = set.intersection(*({key.partition(".")[0] for key in one} for one in settings))
    keys = dict.fromkeys(key for one in settings for key in one if key.partition(".")[0] in known)
    return [key for key in keys if not key.endswith(".") and len({one.get(key) for one in settings}) > 1]


def _settings_of(run: Run) -> dict[str, str]:
    """The settings of a run's experiment by key; a section has an entry `key.` and one for each key inside.

    Of traces only the names count, because a seed may draw what is in them.
    """
    experiment = run.manifest.get("experiment")
    found: dict[str, str] = {}
    for key, value in experiment.items() if isinstance(experiment, Mapping) else ():
        if key in _TOLD_OTHERWISE:
            continue
        if key == "traces":
            traces = [trace for trace in value if isinstance(trace, Mapping)] if isinstance(value, list) else []
            found[key] = " ".join(str(trace.get("name")) for trace in traces) or "none"
        elif value is None or isinstance(value, Mapping):
            found[f"{key}."] = ""
            found |= {f"{key}.{name}": str(inner) for name, inner in (value or {}).items()}
        else:
            found[key] = str(value)
    return found


def _model_of(run: Run) -> str | None:
    """The model in a few words, such as `gpt2 q8_0`; its seed, which makes random weights, is left out."""
    experiment = run.manifest.get("experiment")
    model = experiment.get("model") if isinstance(experiment, Mapping) else None
    if not isinstance(model, Mapping):
        return None
    said = [
        f"{value}" if key in ("preset", "path") else key if value is True else f"{key} {value}"
        for key, value in model.items()
        if key != "seed" and value not in (None, False) and (key, value) not in USUAL
    ]
    return " ".join(said)


def _topology_of(run: Run) -> str | None:
    experiment = run.manifest.get("experiment")
    topology = experiment.get("topology") if isinstance(experiment, Mapping) else None
    return str(topology.get("name")) if isinstance(topology, Mapping) else None


def _experiment_of(run: Run) -> str | None:
    return run.fact("experiment_name")


def _backend_of(run: Run) -> str | None:
    return run.fact("backend")


_TOLD_OTHERWISE = ("name", "seed", "model", "policy", "topology")
_POOLED_BY = (_experiment_of, _model_of, _topology_of, _backend_of)


def _seed_of(run: Run) -> str | None:
    return None if run.seed is None else f"seed {run.seed}"


def devices_of(run: Run) -> list[str]:
    """The devices of a run in natural order (d2 before d10); links between devices are none."""
    names = {*run.devices["device"], *run.placements["device"]}
    return sorted(names, key=natural)


def whole_numbers() -> Locator:
    """A locator of ticks at whole numbers only."""
    return MaxNLocator(integer=True, nbins=9, steps=[1, 2, 4, 5, 10])


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with 10, 20, 50, 100 instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def say_empty(axes: Axes, what: str) -> None:
    """Write into empty axes that the run has no such data."""
    axes.text(0.5, 0.5, what, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def folded(label: str, width: float) -> str:
    """A label of a legend, in lines that a figure of so many inches has room for."""
    return textwrap.fill(label, int(LETTERS_PER_INCH * width), break_on_hyphens=False, break_long_words=False)


def make_room(drawing: Figure, labels: Iterable[object]) -> None:
    """Make a figure higher by a legend above its axes that has more than a few lines."""
    lines = sum(str(label).count("\n") + 1 for label in labels)
    drawing.set_figheight(drawing.get_figheight() + LEGEND_ROW * max(0, lines - FEW_ROWS))


def grid_of(count: int, most_columns: int = 4) -> tuple[int, int]:
    """The numbers of rows and columns for `count` panels."""
    columns = min(max(count, 1), most_columns)
    return -(-max(count, 1) // columns), columns
