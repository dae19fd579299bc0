"""`testbed clean`: remove what runs that died have left."""

from __future__ import annotations

import click

from testbed.cli.show import echo, json_option, print_json
from testbed.errors import EnvironmentLacks


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Remove processes, cgroups and sockets of runs whose controller is dead, and guests of killed sandboxes.

    Nothing else is touched.

    Example: testbed clean
    """
    from dataclasses import asdict

    from testbed.emulation.state_files import clean
    from testbed.sandbox.guest import remove_killed

    report, sandboxes = clean(), remove_killed()
    if as_json:
        print_json(asdict(report) | {"removed_sandboxes": sandboxes})
        return
    for run in report.removed_runs:
        echo(f"Removed what run {run} left.")
    for path in report.removed_paths:
        echo(f"  {path}")
    for folder in sandboxes:
        echo(f"Removed the killed sandbox of {folder}.")
    for run in report.living_runs:
        echo(f"Left run {run} alone: it is going on.")
    if not (report.removed_runs or sandboxes or report.failures):
        echo("Nothing to remove.")
    if report.failures:
        raise EnvironmentLacks("; ".join(report.failures))
