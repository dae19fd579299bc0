"""`testbed report`: the results of runs on one page."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import ALL_RUNS
from testbed.cli.show import echo, json_option, print_json
from testbed.files import write_text


@click.command()
@ALL_RUNS
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file to write [standard output]."
)
@json_option
def command(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Sum up one or more runs in Markdown: the results, and how they were obtained.

    RUN is a run's folder or a folder of runs.

    Example: testbed report runs/demo --out report.md
    """
    from testbed.analysis import load_many
    from testbed.analysis.metrics import metrics
    from testbed.analysis.report import report

    loaded = load_many(runs)
    text = report(loaded)
    if out is not None:
        write_text(out, text)
    if as_json:
        rows = [{"path": str(run.folder), "policy": run.policy, "status": run.status} for run in loaded]
        figures = [metrics(run).to_dict() for run in loaded]
        print_json({"rows": [row | figure for row, figure in zip(rows, figures, strict=True)], "report": text})
    else:
        echo(text if out is None else str(out), nl=out is not None)
