"""Reads the devices of a plan: a topology by its file or name, or boards as people write them.

`4 x raspberry-pi-5 8GB` is a star of four boards of the catalogue around one switch. `1 x raspberry-pi-5 8GB + 2 x
raspberry-pi-4 4GB` mixes them; the first board is the source.
"""

from __future__ import annotations

import os
import re
from typing import Any

from testbed.bundled import find_file
from testbed.errors import ConfigError
from testbed.models.presets import PRESETS
from testbed.strict_yaml import shown, suggest
from testbed.topologies.catalogue import boards
from testbed.topologies.model import Device, Topology
from testbed.units import parse_bandwidth, parse_rate
from testbed.validation.names import GIB, MOST_BOARDS, Board, read_boards

DEFAULT_LINK = "1 Gbit/s"
"""The link of each board to the switch, if nothing is said: all boards of the catalogue have gigabit Ethernet."""

_COUNTED = re.compile(r"\s*\d{1,6}\s*(?:x|×|\*)\s")
_BEGUN = re.compile(r"\s*\d+\s*(?:x|×|\*|$)")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def read_fleet(text: str, link: str | None = None) -> Topology:
    """The topology that a file, a bundled name or a number of boards means; raises ConfigError.

    `link` is the rate of each board's link. A topology has links of its own.
    """
    if os.path.lexists(text) or not _COUNTED.match(text):
        if link is not None:
            raise ConfigError(f"--link {link} is for boards like '4 x raspberry-pi-5': {text} has links of its own")
        if text in PRESETS and not os.path.lexists(text):
            raise ConfigError(f"{shown(text)} is a model, but devices are wanted: write the model first, then devices")
        if _BEGUN.match(text) and not os.path.lexists(text):
            raise ConfigError(f"{shown(text)}: write boards in quotes and with spaces, like '4 x raspberry-pi-5 8GB'")
        if any(
            one is not None and one.family.replace(" ", "-") in boards() for one in read_boards(text.replace("-", " "))
        ):
            raise ConfigError(f"{shown(text)}: write how many boards first, like '4 x raspberry-pi-5 8GB'")
        return Topology.load(find_file("topology", text))
    parse_rate(link or DEFAULT_LINK)
    found = read_boards(text.replace("-", " "))
    if not found:
        raise ConfigError(f"{shown(text)} is no number of boards: write from 1 to {MOST_BOARDS}, like '4 x'")
    names = _LETTERS if len(found) <= len(_LETTERS) else [f"d{number + 1}" for number in range(len(found))]
    devices = {name: _entry(board, text, link or DEFAULT_LINK) for name, board in zip(names, found, strict=False)}
    return Topology.from_dict({"name": text, "shape": "star", "source": names[0], "devices": devices}, text)


def _entry(board: Board | None, text: str, link: str) -> dict[str, Any]:
    name = "" if board is None else board.family.replace(" ", "-")
    if board is None or name not in boards():
        hint = suggest(name, boards())
        raise ConfigError(f"{text}: {shown(name)} is no board of the catalogue, so it needs a topology file{hint}")
    memory = {} if board.ram_bytes is None else {"memory": f"{board.ram_bytes} B"}
    return {"catalogue": name, "link": {"rate": link}, **memory}


def board_of(device: Device) -> Board | None:
    """The board that a device is, as tables of measurements name it; None if it is not one of the catalogue.

    None also for a device whose streaming rates its topology gives, because these are what it is then.
    """
    if device.catalogue is None or device.model.streaming_Bps:
        return None
    if device.streaming_Bps != parse_bandwidth(boards()[device.catalogue].values["streaming"]):
        return None
    return read_boards(f"1 x {device.catalogue.replace('-', ' ')} {device.memory_bytes / GIB:g}GB")[0]
