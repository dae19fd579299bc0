"""`testbed runs`: what has been run, and how it ended."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.show import echo, json_option, print_json, print_table


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("runs"))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs) and in the folders in it, oldest first.

    Example: testbed runs runs/demo --json
    """
    from testbed.running.run_list import list_runs

    rows = list_runs(folder)
    if as_json:
        print_json(rows)
    elif not rows:
        echo(f"There is no run in {folder}; `testbed replay` makes one.")
    else:
        headings = {"name": "run", "status": "status", "policy": "policy", "backend": "backend"}
        headings |= {"tokens": "tokens", "mean_token_ms": "mean ms", "migrations": "migrations"}
        print_table(headings, rows)
        for row in rows:
            if "error" in row:
                echo(f"{row['name']} is {row['status']}: {row['error']}.")
