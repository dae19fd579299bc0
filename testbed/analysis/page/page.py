"""Puts a report of runs together as one HTML file, from a template, a style sheet, figures and scripts.

The file holds all that it needs, Vega and Vega-Lite too. Whatever comes from run folders is escaped: as HTML by the
template, and inside the script of data by `_as_script`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from testbed.analysis.load import Run
from testbed.analysis.page.chart import Chart
from testbed.analysis.page.of_each import charts_of_run
from testbed.analysis.page.of_runs import charts_of_runs
from testbed.analysis.plots.style import as_runs, run_names
from testbed.analysis.report import HEADERS, HOW_TO_READ, WORDS, rows
from testbed.files import read_text
from testbed.version import __version__

HERE = Path(__file__).parent
SCRIPTS = ("vega.min.js", "vega-lite.min.js", "page.js")  # in the order in which they need each other
MOST_EACH = 8  # runs; of more, only figures that compare them are drawn, and only doubtful verdicts are listed


@dataclass(frozen=True)
class Origin:
    """How some runs were made, for a section of the page. `drawing` is an SVG element, which is not escaped."""

    name: str
    facts: Mapping[str, str]
    drawing: str = ""
    text: str = ""  # that was generated
    experiment: str = ""  # as YAML
    file: str = "experiment.yaml"  # that the experiment is saved as
    command: str = ""  # that repeats it


def html_page(runs: Run | Sequence[Run], origins: Sequence[Origin]) -> str:
    """The report of one run, or of several side by side; raises AnalysisError for no runs."""
    from jinja2 import Environment, StrictUndefined

    runs = as_runs(runs)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_own("page.html.j2"))
    charts = _charts(runs)
    return template.render(
        version=__version__,
        title=_title(runs),
        subtitle=_when(runs),
        style=_own("page.css"),
        table={"columns": HEADERS, "rows": rows(runs)},
        folded=len(runs) > MOST_EACH,
        words=[place for place, heading in enumerate(HEADERS) if heading in WORDS],
        how_to_read=HOW_TO_READ,
        verdicts=_verdicts(runs),
        charts=charts,
        origins=[vars(origin) for origin in origins],
        figures=_as_script([chart.document() for chart in charts]),
        scripts=[_script(script) for script in SCRIPTS],
    )


@cache
def _own(name: str) -> str:
    return read_text(HERE / name)


def _script(name: str) -> str:
    """A script as it can stand in a page, without the comment by which a browser would look for its source map."""
    return _own(name).partition("\n//# sourceMappingURL=")[0].replace("</script", "<\\/script")


def _as_script(document: Any) -> str:
    """JSON that no HTML parser takes for a tag or a comment, wherever its texts come from."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))  # beyond ASCII all is escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _charts(runs: Sequence[Run]) -> list[Chart]:
    charts = charts_of_runs(runs)
    if len(runs) <= MOST_EACH:
        for run, name in zip(runs, run_names(runs), strict=True):
            charts += charts_of_run(run, name)
    return charts


def _title(runs: Sequence[Run]) -> str:
    experiments = list(dict.fromkeys(str(run.fact("experiment_name", "runs")) for run in runs))
    if len(runs) == 1:
        return f"{experiments[0]}: {runs[0].policy}"
    return f"{', '.join(experiments[:3])}{', …' if len(experiments) > 3 else ''}: {len(runs)} runs"


def _when(runs: Sequence[Run]) -> str:
    made = sorted(str(run.fact("created")) for run in runs if run.fact("created"))
    if not made:
        return ""
    return f"made {made[0]}" if made[0] == made[-1] else f"made {made[0]} to {made[-1]}"


def _verdicts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What is to be said of each run's end; of many runs, how many ended how, and those to doubt."""
    shown = []
    many = len(runs) > MOST_EACH
    if many:
        counts = Counter(_ended(run) for run in runs)
        told = ", ".join(f"{count} {ended}" for ended, count in counts.most_common())
        shown.append(
            {"name": f"{len(runs)} runs", "verdict": told, "class": "", "error": "", "reasons": (), "notes": ()}
        )
    for run, name in zip(runs, run_names(runs), strict=True):
        verdict = run.fact("verdict")
        verdict = verdict if isinstance(verdict, Mapping) else {}
        bad = run.status != "done" or run.verdict == "not faithful"
        if not many or bad:
            shown.append(
                {
                    "name": name,
                    "verdict": _ended(run),
                    "class": "bad" if bad else "good" if run.verdict == "faithful" else "none",
                    "error": str((run.summary or {}).get("error") or ""),
                    "reasons": [str(reason) for reason in verdict.get("reasons") or ()],
                    "notes": [str(note) for note in verdict.get("notes") or ()],
                }
            )
    return shown


def _ended(run: Run) -> str:
    return run.verdict if run.status == "done" else f"{run.status}, {run.verdict}"
