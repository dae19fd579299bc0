"""A topology as text that draws it: Mermaid for Markdown pages, Graphviz for everything else.

Each link is one line with both directions' rates and delays. This module writes text; `figure` draws.
"""

from __future__ import annotations

from testbed.topologies.links import Link
from testbed.topologies.model import Device, Topology
from testbed.topologies.shapes import WIFI
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


def switch_lines(topology: Topology, switch: str) -> list[str]:
    """What a drawing says in a switch: its name, and the medium if stations share one there."""
    return [switch, *(link_lines(topology.cables[0].link) if topology.shape == WIFI else [])]


def edges(topology: Topology) -> list[tuple[str, str, list[str]]]:
    """(one end, the other end, what a drawing says there) for each line of a drawing."""
    if topology.shape == WIFI:
        return [(device.name, topology.switches[0], []) for device in topology.devices]
    return [(*cable.ends, link_lines(cable.link)) for cable in topology.links]


def _both(up: str, down: str) -> list[str]:
    return [up] if up == down else [f"{up} up", f"{down} down"]


def mermaid(topology: Topology) -> str:
    """A Mermaid flowchart, to be put into a ```mermaid block of a Markdown page."""
    names = _identifiers(topology)
    lines = ["flowchart LR"]
    for switch in topology.switches:
        lines.append(f'    {names[switch]}(("{"<br>".join(switch_lines(topology, switch))}"))')
    for device in topology.devices:
        lines.append(f'    {names[device.name]}["{"<br>".join(device_lines(topology, device))}"]')
    for one, other, told in edges(topology):
        label = f'|"{"<br>".join(told)}"|' if told else ""
        lines.append(f"    {names[one]} ---{label} {names[other]}")
    lines.append(f"    style {names[topology.source]} stroke-width:3px")
    return "\n".join(lines) + "\n"


def graphviz(topology: Topology) -> str:
    """A graph in Graphviz's language: `neato -Tsvg`, for instance, draws it."""
    lines = [f"graph {_quoted(topology.name)} {{", "    graph [overlap=false, splines=true]", "    node [shape=box]"]
    for switch in topology.switches:
        label = "" if topology.shape != WIFI else f", label={_quoted(*switch_lines(topology, switch))}"
        lines.append(f"    {_quoted(switch)} [shape=circle{label}]")
    for device in topology.devices:
        bold = ", style=bold" if device.name == topology.source else ""
        lines.append(f"    {_quoted(device.name)} [label={_quoted(*device_lines(topology, device))}{bold}]")
    for one, other, told in edges(topology):
        lines.append(f"    {_quoted(one)} -- {_quoted(other)}{f' [label={_quoted(*told)}]' if told else ''}")
    return "\n".join([*lines, "}"]) + "\n"


def _identifiers(topology: Topology) -> dict[str, str]:
    """A Mermaid id for each node: names may be words of Mermaid's own, such as `end`."""
    nodes = [*topology.switches, *(device.name for device in topology.devices)]
    return {node: f"n{number}" for number, node in enumerate(nodes)}


def _quoted(*lines: str) -> str:
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
