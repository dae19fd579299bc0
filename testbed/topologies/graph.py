"""A topology as text that draws it: Mermaid for Markdown pages, Graphviz for everything else.

Each link is one line with both directions' rates and delays. This module writes text; `figure` draws.
"""

from __future__ import annotations

from testbed.topologies.links import Link
from testbed.topologies.model import Device, Topology
from testbed.units import format_bandwidth, format_bytes, format_duration, format_rate


def device_lines(topology: Topology, device: Device) -> list[str]:
    """What a drawing says in a device: its name, memory and streaming rate, and the board if it is one."""
    first = f"{device.name} (source)" if device.name == topology.source else device.name
    more = [format_bytes(device.memory_bytes), format_bandwidth(device.streaming_Bps)]
    return [first, *([device.catalogue] if device.catalogue else []), ", ".join(more)]


def link_lines(link: Link) -> list[str]:
    """What a drawing says at a link: one rate and delay, or those of up and down."""
    lines = _both(format_rate(link.up_bps), format_rate(link.down_bps))
    lines += _both(format_duration(link.up_delay_s), format_duration(link.down_delay_s))
    if link.up_loss or link.down_loss:
        lines += [f"loss {text}" for text in _both(f"{100 * link.up_loss:.3g} %", f"{100 * link.down_loss:.3g} %")]
    return lines


def _both(up: str, down: str) -> list[str]:
    return [up] if up == down else [f"{up} up", f"{down} down"]


def mermaid(topology: Topology) -> str:
    """A Mermaid flowchart, to be put into a ```mermaid block of a Markdown page."""
    names = _identifiers(topology)
    lines = ["flowchart LR"]
    for switch in topology.switches:
        lines.append(f'    {names[switch]}(("{switch}"))')
    for device in topology.devices:
        lines.append(f'    {names[device.name]}["{"<br>".join(device_lines(topology, device))}"]')
    for cable in topology.links:
        one, other = (names[end] for end in cable.ends)
        lines.append(f'    {one} ---|"{"<br>".join(link_lines(cable.link))}"| {other}')
    lines.append(f"    style {names[topology.source]} stroke-width:3px")
    return "\n".join(lines) + "\n"


def graphviz(topology: Topology) -> str:
    """A graph in Graphviz's language: `neato -Tsvg`, for instance, draws it."""
    lines = [f"graph {_quoted(topology.name)} {{", "    graph [overlap=false, splines=true]", "    node [shape=box]"]
    for switch in topology.switches:
        lines.append(f"    {_quoted(switch)} [shape=circle]")
    for device in topology.devices:
        bold = ", style=bold" if device.name == topology.source else ""
        lines.append(f"    {_quoted(device.name)} [label={_quoted(*device_lines(topology, device))}{bold}]")
    for cable in topology.links:
        one, other = map(_quoted, cable.ends)
        lines.append(f"    {one} -- {other} [label={_quoted(*link_lines(cable.link))}]")
    return "\n".join([*lines, "}"]) + "\n"


def _identifiers(topology: Topology) -> dict[str, str]:
    """A Mermaid id for each node: names may be words of Mermaid's own, such as `end`."""
    nodes = [*topology.switches, *(device.name for device in topology.devices)]
    return {node: f"n{number}" for number, node in enumerate(nodes)}


def _quoted(*lines: str) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
