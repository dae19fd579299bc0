"""How a verb prints: a table for people, one JSON document for programs, and remarks on standard error.

It knows nothing of what it prints. `testbed.cli.table` lays tables out.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from testbed.cli.terminal import echo, write
from testbed.progress import printable
from testbed.units import format_number

__all__ = ["echo", "json_option", "print_json", "print_table", "say"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def say(remark: str) -> None:
    """Print a remark for a person, on standard error."""
    echo(remark, err=True)


def print_json(document: Any) -> None:
    """Print one JSON document; a number that is not finite (a figure that a run does not have) becomes null."""
    # Characters beyond ASCII are escaped: it is JSON in every encoding, and nothing in it commands a terminal.
    write(json.dumps(_plain(document), indent=2, allow_nan=False))


def print_table(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], decimals: int | None = None, keys: int = 1
) -> None:
    """Print rows under their headings; `columns` is key -> heading. Numbers are right-aligned, and None is `-`.

    With `decimals`, all numbers that are not whole have so many. A terminal gets no line that is longer than it is
    wide, if names and numbers allow it; a pipe gets every row on one line. The first `keys` columns tell rows apart.
    """
    from testbed.cli.table import Column, lay_out

    table = [
        Column(
            printable(heading),
            [_cell(row.get(key), decimals) for row in rows],
            any(isinstance(row.get(key), (int, float)) for row in rows),
        )
        for key, heading in columns.items()
    ]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number, block in enumerate(lay_out(table, width, keys)):
        if number:
            write("")
        for line in block.headings:
            write(bold(line))
        for line in block.lines:
            write(line)


def bold(text: str) -> str:
    """Return a text in bold for a terminal, or as it is where nobody wants escape sequences (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return text if plain or not sys.stdout.isatty() else click.style(text, bold=True)


def _cell(value: Any, decimals: int | None = None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_number(value) if decimals is None else f"{value:,.{decimals}f}"
    return printable(str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a scalar of numpy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
