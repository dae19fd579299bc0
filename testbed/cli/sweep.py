"""`testbed sweep`: one experiment over values of any key, with policies and seeds, on every core or a cluster."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import FileOrName
from testbed.cli.options import DASHBOARD, OUT, ROWS_AS_JSON, SCHEDULER, SHARE
from testbed.cli.show import echo, print_json, print_table, say


@click.command()
@click.argument("file", type=FileOrName("sweep"))
@SCHEDULER
@DASHBOARD
@SHARE
@OUT
@ROWS_AS_JSON
def command(file: Path, scheduler: str | None, dashboard: bool, share_host: bool, out: Path, as_json: bool) -> None:
    """Carry out every run of the sweep FILE that is missing, and show a table.

    FILE has the keys experiment, policies, seeds (how many, or a list), backend (default: sim) and over, a mapping of
    the experiment's keys to lists of values; every combination is run. Runs are kept under --out in a folder with the
    sweep's name; a repeated sweep carries out only what is missing or has changed. `sweep.parquet` there has a row for
    each run.

    Example: testbed sweep sweep-delay
    """
    from testbed.running.sweep import sweep

    found = sweep(
        file, scheduler=scheduler, dashboard=dashboard, share_host=share_host, out=out, progress=not as_json, tell=say
    )
    if as_json:
        print_json(found.document())
        return
    print_table(found.headings(), found.policy_rows(), keys=len(found.swept) + 1)  # and the policy
    echo(f"Every run: {found.file}")
