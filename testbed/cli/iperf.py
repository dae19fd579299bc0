"""`testbed iperf`: the rates of a topology's network, asked against measured."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import FileOrName
from testbed.cli.options import SHARE
from testbed.cli.show import json_option, print_json, print_table, say
from testbed.units import format_rate


@click.command()
@click.argument("topology", metavar="TOPOLOGY", type=FileOrName("topology"))
@click.argument("devices", metavar="[DEVICE...]", nargs=-1)
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=0.5, show_default=True,
              help="How long each transfer takes at the requested rate.")  # fmt: skip
@SHARE
@json_option
def command(topology: Path, devices: tuple[str, ...], seconds: float, share_host: bool, as_json: bool) -> None:
    """Build the network of TOPOLOGY, without a run in it, and measure TCP between all devices or among the DEVICEs.

    The column `asked` is the payload rate of the slowest link on the way, without headers. Pairs are measured one after
    another, in both directions.

    Example: testbed iperf star4 a b --seconds 2
    """
    from testbed.running.topology_network import iperf

    found = iperf(topology, devices, seconds, share_host, say)
    if as_json:
        print_json(found)
        return
    rows = [
        {"from": row["from"], "to": row["to"], "asked": format_rate(row["asked_bps"]),
         "measured": format_rate(row["measured_bps"]), "share": f"{row['share']:.1%}"}
        for row in found["rows"]
    ]  # fmt: skip
    print_table({key: key for key in ("from", "to", "asked", "measured", "share")}, rows)
