"""`testbed shell`: Mininet's own command line in a topology's network."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import FileOrName


@click.command()
@click.argument("topology", metavar="TOPOLOGY", type=FileOrName("topology"))
@click.pass_context
def command(ctx: click.Context, topology: Path) -> None:
    """Build the network of TOPOLOGY, without a run in it, and open Mininet's command line in it.

    There `help` lists the commands, such as `pingall`, `net` and `a ping b`; `iperf` needs the program of that name.
    `exit` or Ctrl-C ends it and removes the network.

    Example: testbed shell two-tier6
    """
    from testbed.running.topology_network import shell

    ctx.exit(shell(topology))
