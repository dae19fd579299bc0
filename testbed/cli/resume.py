"""`testbed resume`: go on with a run whose controller has died."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from testbed.cli.names import RunPath
from testbed.cli.show import print_json, say
from testbed.errors import FidelityError


@click.command()
@click.argument("run", metavar="RUN", type=RunPath())
@click.option("--accept-unfaithful", is_flag=True, help="Exit 0 even when the emulation was not faithful.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, last and alone on standard output.")
def command(run: Path, accept_unfaithful: bool, as_json: bool) -> None:
    """Go on with RUN, which died before its end, for example with its machine; the tokens stay the same.

    Example: testbed resume runs/20260101T000000Z-quickstart-paper-search
    """
    from testbed.running.carry_out import failure
    from testbed.running.resume import resume_once

    summary = resume_once(run, say, progress=not as_json, stream=not as_json)
    failed = failure(summary, accept_unfaithful)
    if as_json:
        print_json(summary)
    else:
        from testbed.cli.summary import show_summary

        show_summary(summary, reasons=not isinstance(failed, FidelityError), text=not sys.stdout.isatty())
    if failed is not None:
        raise failed
