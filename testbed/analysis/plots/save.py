"""Draws the figures of runs and saves them to files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from testbed.analysis.load import AnalysisError, Run
from testbed.analysis.plots.heads import placement_map
from testbed.analysis.plots.latency import latency_ecdf, token_latency
from testbed.analysis.plots.ledger import memory
from testbed.analysis.plots.links import link_rates
from testbed.analysis.plots.prediction import predicted_vs_measured
from testbed.analysis.plots.recovering import downtime, recoveries
from testbed.analysis.plots.seen import estimates, link_delays
from testbed.analysis.plots.style import DPI, as_runs, paper, run_names, slug

MOST_NAME_CHARACTERS = 50  # of a run's name in a file name; 63 of the longest UTF-8 characters fit
FORMATS = ("png", "pdf", "svg")

TABLES_OF_ALL = ("tokens", "decisions", "migrations", "faults", "recoveries")
"""The tables that the figures of several runs show."""

_OF_ALL: tuple[Callable[[Sequence[Run]], Figure], ...] = (token_latency, latency_ecdf, predicted_vs_measured)
_OF_EACH: tuple[Callable[[Run], Figure], ...] = (memory, placement_map, link_rates)
_WITH_ROWS: dict[str, Callable[[Run], Figure]] = {
    "estimates": estimates, "delays": link_delays, "recoveries": recoveries,
}  # fmt: skip
"""Figures of a table that not every run fills."""

FIGURES = tuple(draw.__name__ for draw in (*_OF_ALL, downtime, *_OF_EACH, *_WITH_ROWS.values()))
"""The names of all figures."""


def save_all(
    runs: Run | Sequence[Run],
    out_dir: str | Path,
    formats: Sequence[str] = ("png",),
    each: bool = True,
    tell: Callable[[int], None] = lambda done: None,
    only: Collection[str] = FIGURES,
) -> list[Path]:
    """Draw figures into `out_dir`: those that compare the runs and, with `each`, those of each run, named after it.

    Of both, only those in `only` are drawn. Calls `tell` with the number of figures that are done, out of
    `count_figures`. Returns the files; raises AnalysisError for an unknown format and for values that cannot be drawn.
    """
    runs = as_runs(runs)
    for unknown in set(formats) - set(FORMATS):
        raise AnalysisError(f"{unknown!r} is not a format for figures: one of {', '.join(FORMATS)}")
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[Callable[[Any], Figure], Run | Sequence[Run], str]] = [
        (draw, runs, draw.__name__) for draw in _OF_ALL if draw.__name__ in only
    ]
    if downtime.__name__ in only and any(len(run.recoveries) for run in runs):
        drawn.append((downtime, runs, downtime.__name__))
    taken: Counter[str] = Counter()
    for run, name in zip(runs, run_names(runs), strict=True) if each else ():
        part = slug(name)[:MOST_NAME_CHARACTERS]
        taken[part] += 1  # cutting and replacing may make two names equal
        part += f"-{taken[part]}" if taken[part] > 1 else ""
        more = [draw for table, draw in _WITH_ROWS.items() if len(getattr(run, table))]
        drawn += [(draw, run, f"{draw.__name__}-{part}") for draw in (*_OF_EACH, *more) if draw.__name__ in only]
    written, counted = [], count_figures(len(runs), each, only)
    for done, (draw, what, stem) in enumerate(drawn, 1):
        written += _saved(draw, what, folder / stem, formats)
        tell(min(done, counted))
    return written


def count_figures(runs: int, each: bool = True, only: Collection[str] = FIGURES) -> int:
    """The number of figures that `save_all` draws of so many runs at least."""
    of_all, of_each = (sum(draw.__name__ in only for draw in draws) for draws in (_OF_ALL, _OF_EACH))
    return of_all + (runs * of_each if each else 0)


def _saved(draw: Callable[[Any], Figure], what: Run | Sequence[Run], stem: Path, formats: Sequence[str]) -> list[Path]:
    """Draw and save a figure; raises AnalysisError for values that no figure can show."""
    try:
        return save_figure(draw(what), stem, formats)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        which = ", ".join(str(run.folder) for run in as_runs(what)[:3])
        reason = " ".join(str(error).split())[:200]
        raise AnalysisError(f"{which}: the values there cannot be drawn as {draw.__name__}: {reason}") from error


def save_figure(drawing: Figure, stem: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write the figure as `<stem>.<format>` for each format, with 300 dpi, and with text as text in PDF and SVG."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in formats]
    with paper():
        for path in paths:
            try:
                drawing.savefig(path, dpi=DPI, bbox_inches="tight", pad_inches=0.03)
            except OSError as error:
                with suppress(OSError):  # half a picture
                    path.unlink()
                if error.errno is None:
                    raise
                raise OSError(error.errno, error.strerror, str(path)) from error  # Pillow names no file
    return paths
