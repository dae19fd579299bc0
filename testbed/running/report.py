"""Writes a report of runs: as one HTML file, in Markdown, or as a table for LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import ConfigError
from testbed.files import refuse_special, write_text
from testbed.runlog.folder import file_part

if TYPE_CHECKING:
    from testbed.analysis import Run
    from testbed.analysis.page import Origin

FORMS = {".html": "html", ".htm": "html", ".md": "md", ".tex": "latex"}
"""Suffix of a file -> the form of the report in it."""

TABLES_OF_ALL = ("tokens", "decisions", "migrations", "devices", "rates", "faults")
TABLES_OF_EACH = (*TABLES_OF_ALL, "links", "placements")
LONGEST_PROMPT = 300  # characters of it that are shown


def write_report(runs: str | Path | Iterable[str | Path], out: str | Path, form: str | None = None) -> Path:
    """Write a report of runs into a file and return its path.

    `runs` are run folders or folders of them. `form` is `html`, `md` or `latex`; by default the file's suffix decides.
    Raises ConfigError for a folder that holds no run, and for an unknown suffix.

    Example: `write_report("runs/demo", "report.html")`
    """
    path = Path(out)
    form = form_of(path, form)
    write_text(path, report_text(load_for_report(runs), form))
    return path


def form_of(out: Path | None, form: str | None) -> str:
    """The form that is asked for, else that of the file's suffix, else Markdown."""
    found = form or (FORMS.get(out.suffix.lower()) if out is not None else "md")
    if found is None:
        refuse_special(out or "")
        raise ConfigError(f"--out {out}: its suffix must be one of {', '.join(FORMS)}; or say --format")
    return found


def load_for_report(runs: str | Path | Iterable[str | Path]) -> list[Run]:
    """Load what a report shows of each run: not spans, by far the largest table, and of many runs few events."""
    from testbed.analysis import load, run_folders, with_changes
    from testbed.analysis.page import MOST_EACH

    folders = run_folders(runs)
    if len(folders) <= MOST_EACH:
        return [load(folder, TABLES_OF_EACH) for folder in folders]
    return with_changes([load(folder, TABLES_OF_ALL, events=("oom_kill",)) for folder in folders])


def report_text(runs: Sequence[Run], form: str) -> str:
    """Return the report of loaded runs in one of the forms."""
    from testbed.analysis.report import latex, report

    if form == "html":
        from testbed.analysis.page import html_page

        return html_page(runs, _origins(runs))
    return latex(runs) if form == "latex" else report(runs)


def _origins(runs: Sequence[Run]) -> list[Origin]:
    """A section for the runs that differ in their seeds at most, on the first of them."""
    from testbed.analysis.plots.style import alike

    return [_origin(group.name, group.runs) for group in alike(runs)]


def _origin(name: str, runs: Sequence[Run]) -> Origin:
    from testbed.analysis.page import Origin

    run = runs[0]
    experiment = run.manifest.get("experiment")
    experiment = experiment if isinstance(experiment, Mapping) else {}
    file = f"{file_part(str(run.fact('experiment_name', 'experiment')))}-{file_part(run.policy)}.yaml"
    return Origin(
        name=name,
        facts={fact: str(value) for fact, value in _facts(runs, experiment).items() if value not in (None, "")},
        drawing=_drawing(experiment),
        text=str((run.summary or {}).get("text") or ""),
        experiment=_as_yaml(experiment),
        file=file,
        command=f"testbed replay {file} --backend {run.fact('backend', 'sim')}",
    )


def _facts(runs: Sequence[Run], experiment: Mapping[str, Any]) -> dict[str, Any]:
    run = runs[0]
    seeds = sorted({one.seed for one in runs if one.seed is not None})
    traces = experiment.get("traces")
    named = (
        [str(trace.get("name")) for trace in traces if isinstance(trace, Mapping)] if isinstance(traces, list) else []
    )
    first = " (the first one is shown)" if len(runs) > 1 else ""
    return {
        "experiment": run.fact("experiment_name"),
        "backend": f"{run.fact('backend', 'unknown')}{', nothing was measured' if run.simulated else ''}",
        "model": _told(experiment.get("model")),
        "weights": run.manifest.get("model_weights"),
        "prompt": _prompt(experiment.get("prompt"))[:LONGEST_PROMPT],
        "tokens": f"{experiment.get('tokens')}, a decision every {experiment.get('interval')}" if experiment else None,
        "partition": _told(experiment.get("partition")),
        "traces": ", ".join(named) or "none",
        "seed" if len(seeds) <= 1 else "seeds": ", ".join(map(str, seeds)) + first,
        "lost devices": _lost(run.summary or {}),
        "verified": run.fact("verified"),
        "machine": _told(run.manifest.get("host")),
        "calibration": _told(run.manifest.get("calibration")),
        "testbed": run.manifest.get("testbed"),
        "folder": run.folder if len(runs) == 1 else f"{run.folder} and {len(runs) - 1} more",
    }


def _lost(summary: Mapping[str, Any]) -> str:
    """The devices that were lost, and for how long no token came because of it."""
    lost = summary.get("lost_devices") or []
    return f"{', '.join(map(str, lost))}; no token for {summary.get('downtime_s') or 0:.3g} s" if lost else ""


def _told(value: Any) -> str:
    """Return a mapping of the manifest in a line, without what is empty."""
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    given = {key: inner for key, inner in value.items() if inner not in (None, "", {}, [])}
    words = {True: "yes", False: "no"}
    return ", ".join(f"{key} {words[inner] if isinstance(inner, bool) else inner}" for key, inner in given.items())


def _prompt(prompt: Any) -> str:
    """Return the text of a prompt, or what is said in a chat."""
    if not isinstance(prompt, Mapping):
        return _told(prompt)
    chat = prompt.get("chat")
    if isinstance(chat, list):
        return " / ".join(str(turn.get("content")) for turn in chat if isinstance(turn, Mapping))
    return str(prompt["text"]) if "text" in prompt else _told(prompt)


def _drawing(experiment: Mapping[str, Any]) -> str:
    """Return the topology as SVG; nothing for a run of which it cannot be read."""
    from testbed.topologies.drawing import svg
    from testbed.topologies.model import Topology

    topology = experiment.get("topology")
    try:
        return svg(Topology.from_dict(topology)) if isinstance(topology, Mapping) else ""
    except ConfigError:
        return ""


def _as_yaml(experiment: Mapping[str, Any]) -> str:
    import yaml

    if not experiment:
        return ""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    shape: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 120}
    return str(yaml.dump(dict(experiment), Dumper=dumper, **shape))
