"""`testbed clean`: remove what runs that died have left."""

from __future__ import annotations

import click

from testbed.cli.show import echo, json_option, print_json
from testbed.errors import EnvironmentLacks


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Remove processes, cgroups and sockets of runs whose controller is dead, and what other killed commands left.

    Those leave temporary folders, and a sandbox perhaps a guest. Nothing else is touched.

    Example: testbed clean
    """
    from dataclasses import asdict

    from testbed.emulation.state_files import clean
    from testbed.sandbox.guest import remove_killed
    from testbed.temporary import remove_abandoned

    report = clean()
    folders = remove_killed() + remove_abandoned("headroom-")
    if as_json:
        print_json(asdict(report) | {"removed_folders": folders})
        return
    for run in report.removed_runs:
        echo(f"Removed what run {run} left.")
    for path in report.removed_paths:
        echo(f"  {path}")
    for folder in folders:
        echo(f"Removed {folder}, which a killed command left.")
    for run in report.living_runs:
        echo(f"Left run {run} alone: it is going on.")
    if not (report.removed_runs or folders or report.failures):
        echo("Nothing to remove.")
    if report.failures:
        raise EnvironmentLacks("; ".join(report.failures))
