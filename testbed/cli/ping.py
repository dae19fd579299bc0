"""`testbed ping`: the round trips of a topology's network, asked against measured."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import FileOrName
from testbed.cli.options import SHARE
from testbed.cli.show import json_option, print_json, print_table, say


@click.command()
@click.argument("topology", metavar="TOPOLOGY", type=FileOrName("topology"))
@click.argument("devices", metavar="[DEVICE...]", nargs=-1)
@SHARE
@json_option
def command(topology: Path, devices: tuple[str, ...], share_host: bool, as_json: bool) -> None:
    """Build the network of TOPOLOGY, without a run in it, and ping between all devices or between the DEVICEs.

    The column `asked` is the sum of the delays of both directions. Pairs are pinged one after another, so a large
    network takes a while.

    Example: testbed ping star4
    """
    from testbed.doctor.topology_probe import NO_NETEM
    from testbed.running.topology_network import ping

    found = ping(topology, devices, share_host, say)
    if as_json:
        print_json(found)
        return
    headings = {
        "from": "from",
        "to": "to",
        "asked_ms": "asked ms",
        "measured_ms": "measured ms",
        "lost": "lost (share)",
    }
    print_table(headings, found["rows"], decimals=3)
    if not found["netem"]:
        say(NO_NETEM)
