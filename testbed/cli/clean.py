"""`testbed clean`: remove what runs that died have left."""

from __future__ import annotations

import click

from testbed.cli.show import json_option, print_json


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Remove processes, cgroups and sockets of runs whose controller is gone; nothing else is touched.

    Example: testbed clean
    """
    from dataclasses import asdict

    from testbed.emulation.state import clean

    report = clean()
    if as_json:
        print_json(asdict(report))
        return
    for line in report.lines():
        click.echo(line)
