"""How `topologies show` shows the devices and links of a topology to a person."""

from __future__ import annotations

from typing import Any

from testbed.cli.show import echo, print_table
from testbed.units import format_bandwidth, format_bytes, format_compute, format_duration, format_rate


def show_description(description: dict[str, Any]) -> None:
    """Print what `testbed.topologies.model.describe` returns."""
    rows = [
        {
            "name": device["name"] + (" (source)" if device["source"] else ""),
            "board": device["catalogue"],
            "memory": format_bytes(device["memory_bytes"]),
            "streaming": format_bandwidth(device["streaming_Bps"]),
            "compute": format_compute(device["compute_flops"]),
            "storage": format_bandwidth(device["storage_Bps"]),
        }
        for device in description["devices"]
    ]
    own = {link["name"]: _link_row(link) for link in description["links"]}
    others = [own.pop(name) for name in list(own) if name not in {device["name"] for device in description["devices"]}]
    headings = {"name": "device", "board": "board"}
    headings |= {key: key for key in ("memory", "streaming", "compute", "storage")}
    if own:
        rows = [own[device["name"]] | row for device, row in zip(description["devices"], rows, strict=True)]
        headings |= _link_headings([*own.values()])
    print_table(headings, rows)
    if others:
        echo()
        print_table({"name": "link", "ends": "from - to (up)"} | _link_headings(others), others)
    memory, streaming = format_bytes(description["memory_bytes"]), format_bandwidth(description["streaming_Bps"])
    kind = f"{description['name']}: shape {description['shape']}"
    echo(f"{kind}; in all {memory} of memory, {streaming} streaming.")


def _link_row(link: dict[str, Any]) -> dict[str, str]:
    """Return a link's values as text; without jitter and loss if it has none."""
    row = {"name": link["name"], "ends": " - ".join(link["ends"])}
    row |= {"up": format_rate(link["up_bps"]), "down": format_rate(link["down_bps"])}
    row["delay"] = _both(format_duration(link["up_delay_s"]), format_duration(link["down_delay_s"]))
    if link["up_jitter_s"] or link["down_jitter_s"]:
        row["jitter"] = _both(format_duration(link["up_jitter_s"]), format_duration(link["down_jitter_s"]))
    if link["up_loss"] or link["down_loss"]:
        row["loss"] = _both(f"{link['up_loss']:.4g}", f"{link['down_loss']:.4g}")
    return row


def _link_headings(rows: list[dict[str, str]]) -> dict[str, str]:
    """Return the headings of links; jitter and loss only if some link has any."""
    headings = {"up": "up", "down": "down", "delay": "one-way delay"}
    return headings | {key: key for key in ("jitter", "loss") if any(key in row for row in rows)}


def _both(up: str, down: str) -> str:
    return up if up == down else f"{up} up, {down} down"
