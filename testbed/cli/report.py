"""`testbed report`: the results of runs on one page."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import ALL_RUNS
from testbed.cli.show import echo, json_option, print_json
from testbed.files import write_text


@click.command()
@ALL_RUNS
@click.option("--format", "form", type=click.Choice(["html", "md", "latex"]),
              help="The format [default: by the suffix of --out, else md].")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="File to write: .html, .md or .tex [default: standard output].")  # fmt: skip
@json_option
def command(runs: tuple[Path, ...], form: str | None, out: Path | None, as_json: bool) -> None:
    """Sum up one or more runs: the results, and how they were obtained.

    RUN is a run's folder or a folder of runs. HTML is one self-contained file with interactive figures; LaTeX is the
    table of results.

    Example: testbed report runs/demo --out report.html
    """
    from testbed.analysis.metrics import metrics
    from testbed.running.report import form_of, load_for_report, report_text

    form = form_of(out, form)
    loaded = load_for_report(runs)
    text = report_text(loaded, form)
    if out is not None:
        write_text(out, text)
    if as_json:
        rows = [{"path": str(run.folder), "policy": run.policy, "status": run.status} for run in loaded]
        figures = [metrics(run).to_dict() for run in loaded]
        print_json({"rows": [row | figure for row, figure in zip(rows, figures, strict=True)], "report": text})
    else:
        echo(text if out is None else str(out), nl=out is not None)
