"""`testbed watch`: a run in the terminal, while it goes on or token by token afterwards."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.names import RUNS, RunPath
from testbed.cli.terminal import write
from testbed.errors import ConfigError

if TYPE_CHECKING:
    from testbed.runlog.following import Follower

LOWEST = 19  # priority: what is watched goes first


@click.command()
@click.argument("run", metavar="[RUN]", type=RunPath(), required=False)
@click.option("--speed", type=click.FloatRange(0.1, 100), default=8.0, show_default=True,
              help="Tokens per second at which a run that has ended is replayed.")  # fmt: skip
@click.option("--once", is_flag=True, help="Print one picture, of the present or the end, and stop.")
def command(run: Path | None, speed: float, once: bool) -> None:
    """Show RUN in the terminal: devices with their blocks, memory and links, latency, text, events and the verdict.

    A run that is still going on is followed; one that has ended is replayed. Without RUN, the newest in the folder
    `runs` is shown. Only the run's folder and the tokenizer of its model are read.

    Example: testbed watch runs/20260101T000000Z-quickstart-paper-search
    """
    from testbed.runlog.following import Follower
    from testbed.running.run_names import find_run, run_names

    if not once:
        os.nice(LOWEST)
    if run is None:
        known = run_names(RUNS)
        if not known:
            raise ConfigError(f"there is no run in the folder {RUNS}: say which run to watch")
        run = RUNS / known[-1]
    if not once and not (sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"):
        raise ConfigError("`testbed watch` needs a terminal; with --once it prints one picture anywhere")
    follower = Follower(find_run(run))
    while follower.look():
        pass
    if follower.trouble is not None and not follower.manifest:
        raise ConfigError(follower.trouble)
    if once:
        _print(follower)
        return
    from testbed.cli.watch_app import Watch

    Watch(follower, speed).run()


def _print(follower: Follower) -> None:
    from testbed.cli.watch_frame import frame
    from testbed.running.picture import Text, picture

    size = shutil.get_terminal_size()
    for line in frame(picture(follower, None, Text(follower.manifest)), size.columns, size.lines):
        write(line.plain.rstrip())
