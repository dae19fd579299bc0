"""`testbed topologies`: what networks there are, and what is in one."""

from __future__ import annotations

import click

from testbed.cli.show import json_option, print_json, print_table
from testbed.units import format_bandwidth, format_bytes, format_compute, format_duration, format_rate


@click.group()
def command() -> None:
    """List the bundled topologies, or show one.

    Example: testbed topologies show star4
    """


@command.command("list")
@json_option
def list_topologies(as_json: bool) -> None:
    """List the topologies that come with the package.

    Example: testbed topologies list --json
    """
    from topologies.model import list_bundled

    rows = list_bundled()
    if as_json:
        print_json(rows)
        return
    shown = [row | {"memory": format_bytes(row["memory_bytes"])} for row in rows]
    headings = {"name": "name", "shape": "shape", "devices": "devices", "source": "source", "memory": "memory"}
    print_table(headings | {"path": "file"}, shown)


@command.command("show")
@click.argument("topology", metavar="NAME|FILE")
@json_option
def show_topology(topology: str, as_json: bool) -> None:
    """Show the devices and links of a bundled topology or of a file.

    Example: testbed topologies show topologies/star4.yaml
    """
    from topologies.model import Topology, describe, find_topology

    description = describe(Topology.load(find_topology(topology)))
    if as_json:
        print_json(description)
        return
    rows = [
        {
            "name": device["name"] + (" (source)" if device["source"] else ""),
            "board": device["catalogue"],
            "memory": format_bytes(device["memory_bytes"]),
            "streaming": format_bandwidth(device["streaming_Bps"]),
            "compute": format_compute(device["compute_flops"]),
            "storage": format_bandwidth(device["storage_Bps"]),
            "up": format_rate(device["up_bps"]),
            "down": format_rate(device["down_bps"]),
            "delay": _delays(device["up_delay_s"], device["down_delay_s"]),
        }
        for device in description["devices"]
    ]
    headings = {"name": "device", "board": "board"}
    headings |= {key: key for key in ("memory", "streaming", "compute", "storage", "up", "down")}
    print_table(headings | {"delay": "one-way delay"}, rows)
    total = format_bytes(description["memory_bytes"]), format_bandwidth(description["streaming_Bps"])
    click.echo(f"{description['name']}: a {description['shape']}; in all {total[0]} of memory, {total[1]} streaming.")


def _delays(up_s: float, down_s: float) -> str:
    up, down = format_duration(up_s), format_duration(down_s)
    return up if up == down else f"{up} up, {down} down"
