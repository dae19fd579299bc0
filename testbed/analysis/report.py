"""A short report of runs as text: the results, and how they were obtained. `page` has the one in HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from testbed.analysis.load import AnalysisError, Run
from testbed.analysis.metrics import MIB, metrics
from testbed.analysis.plots.style import run_names
from testbed.progress import printable

MB = 1e6
HEADERS = (
    "policy",
    "status",
    "tokens",
    "p50 (ms)",
    "p95 (ms)",
    "migrations",
    "MB moved",
    "stall (s)",
    "OOM kills",
    "peak memory (MiB)",
    "prediction error",
    "J per token",
    "verdict",
)
WORDS = {"policy", "status", "verdict"}  # left-aligned
HOW_TO_READ = (
    "Latencies are over decode tokens, the prefill excluded, in emulated time. Memory is the most in use on any "
    "device: weights, KV caches and, where it was measured, the worker's own, which is not in the budget. The "
    "prediction error is the median of |predicted − measured| / measured."
)
MISSING = "–"  # a figure that a run does not have
_IN_LATEX = {MISSING: "--", "−": "$-$", "…": r"\ldots{}"}


def report(runs: Run | Sequence[Run]) -> str:
    """A table with a row for each run, and then the origin of the numbers; raises AnalysisError for no runs."""
    runs = _listed(runs)
    lines = ["# Results", "", _row(HEADERS), _row("---" if header in WORDS else "---:" for header in HEADERS)]
    lines += [_row(cells) for cells in rows(runs)]
    lines += ["", HOW_TO_READ, "", "## How the results were obtained", ""]
    lines += [f"- {_plain(line)}" for run in runs for line in _provenance(run)]
    return "\n".join(lines) + "\n"


def latex(runs: Run | Sequence[Run]) -> str:
    """The table of `report` for LaTeX with the package booktabs; the origin of the numbers is in comments above it."""
    runs = _listed(runs)
    frame = pd.DataFrame([[" ".join(cell.split()) for cell in cells] for cells in rows(runs)], columns=list(HEADERS))
    styled = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    table = styled.to_latex(
        hrules=True,
        environment="table*",
        position_float="centering",
        column_format="".join("l" if header in WORDS else "r" for header in HEADERS),
        caption=HOW_TO_READ.replace("|predicted − measured| / measured", r"$|$predicted $-$ measured$|$ / measured"),
        label="tab:results",
    )
    for character, written in _IN_LATEX.items():
        table = table.replace(character, written)
    origin = [" ".join(line.split()) for run in runs for line in _provenance(run)]
    return "\n".join([r"% \usepackage{booktabs}", *(f"% {line}" for line in origin), table])


def rows(runs: Sequence[Run]) -> list[list[str]]:
    """The cells of the table of results, in the order of `HEADERS`; the first one tells each run from the others."""
    return [_cells(run, name) for run, name in zip(runs, run_names(runs), strict=True)]


def _listed(runs: Run | Sequence[Run]) -> list[Run]:
    found = [runs] if isinstance(runs, Run) else list(runs)
    if not found:
        raise AnalysisError("there is nothing to report: give at least one run")
    return found


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(_plain(str(cell)).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """One line of Markdown in which a name from a run folder is no markup for a browser or a terminal."""
    return printable(" ".join(text.split())).replace("<", "\\<")


def _cells(run: Run, name: str) -> list[str]:
    figures = metrics(run)
    tokens = len(run.tokens)
    asked = run.tokens_asked or tokens
    return [
        name,
        run.status,
        f"{tokens}" if tokens >= asked else f"{tokens} of {asked}",
        _number(figures["p50_ms"], ".1f"),
        _number(figures["p95_ms"], ".1f"),
        str(figures["migrations"]),
        f"{figures['migrated_bytes'] / MB:.2f}",
        f"{figures['stall_s']:.3f}",
        str(figures["oom_kills"]),
        _number(figures["peak_memory_bytes"] / MIB, ".1f"),
        _number(figures["prediction_error"], ".1%"),
        _number(figures["joules_per_token"], ".3g"),
        run.verdict,
    ]


def _number(value: float, how: str) -> str:
    return MISSING if pd.isna(value) else format(value, how)


def _provenance(run: Run) -> list[str]:
    """A line on how a run was made, and a line for each reason to doubt it."""
    parts = [f"backend {run.fact('backend', 'unknown')}"]
    if run.simulated:
        parts = ["simulated in virtual time, nothing was measured"]
    name = run.fact("name", run.fact("experiment_name"))
    if name:
        parts.append(f"experiment {name}")
    if run.seed is not None:
        parts.append(f"seed {run.seed}")
    for key in ("delay", "dilation", "compute", "observation", "trace_clock", "weights"):
        value = run.fact(key)
        if value is not None:
            parts.append(f"{key} {value}")
    verified = run.fact("verified")
    if verified:
        parts.append(f"verified {verified}")
    host = run.fact("host")
    if isinstance(host, Mapping):
        parts.append("machine " + ", ".join(f"{key} {value}" for key, value in host.items()))
    lines = [f"{run.policy} (`{run.folder.name}`): " + "; ".join(parts) + "."]
    if run.summary is None:
        lines.append(f"{run.policy}: the run did not come to its end; its row holds what was logged until then.")
    verdict = run.fact("verdict")
    reasons = verdict.get("reasons") if isinstance(verdict, Mapping) else None
    lines += [f"{run.policy}: {reason}" for reason in reasons or []]
    return lines
