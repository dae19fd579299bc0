"""`testbed resume`: go on with a run whose controller has died."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import RUN
from testbed.cli.options import ACCEPT, SUMMARY_AS_JSON
from testbed.cli.show import say


@click.command()
@RUN
@ACCEPT
@SUMMARY_AS_JSON
def command(run: Path, accept_unfaithful: bool, as_json: bool) -> None:
    """Continue RUN, which died before its end, for example with its machine. The tokens stay the same.

    Example: testbed resume runs/20260101T000000Z-quickstart-paper-search
    """
    from testbed.cli.summary import show_end
    from testbed.running.resume import resume_once

    show_end(resume_once(run, say, progress=not as_json, stream=not as_json), accept_unfaithful, as_json)
