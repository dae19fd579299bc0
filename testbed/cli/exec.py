"""`testbed exec`: a command inside a device of a run that is up."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import RUN


@click.command(context_settings={"ignore_unknown_options": True})
@RUN
@click.argument("device")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND")
@click.pass_context
def command(ctx: click.Context, run: Path, device: str, arguments: tuple[str, ...]) -> None:
    """Run COMMAND in DEVICE's network namespace, in a RUN that `replay --hold` keeps up.

    Example: testbed exec runs/20260101T000000Z-quickstart-static b -- ping -c 3 10.0.0.1
    """
    from testbed.running.device_command import run_in_device

    ctx.exit(run_in_device(run, device, arguments))
