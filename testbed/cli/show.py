"""How a verb prints: a table for people, one JSON document for programs, and remarks on standard error.

It knows nothing of what it prints. rich is loaded only when a table is drawn.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from testbed.cli.terminal import echo, write
from testbed.progress import printable
from testbed.units import format_number

__all__ = ["echo", "json_option", "print_json", "print_table", "say"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

PIPE_WIDTH = 240  # columns for a table that goes into a file or a pipe, where nothing must be cut off


def say(remark: str) -> None:
    """Print a remark for a person, on standard error."""
    echo(remark, err=True)


def print_json(document: Any) -> None:
    """Print one JSON document; a number that is not finite (a figure that a run does not have) becomes null."""
    # Characters beyond ASCII are escaped: it is JSON in every encoding, and nothing in it commands a terminal.
    write(json.dumps(_plain(document), indent=2, allow_nan=False))


def print_table(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], narrow: bool = False, decimals: int | None = None
) -> None:
    """Print rows under their headings; `columns` is key -> heading. Numbers are right-aligned, and None is `-`.

    With `narrow`, one space parts the columns, not two. With `decimals`, all numbers that are not whole have so many.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=narrow)
    for key, heading in columns.items():
        values = [row.get(key) for row in rows]
        numeric = any(isinstance(value, (int, float)) for value in values)
        table.add_column(printable(heading), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(key), decimals) for key in columns))
    # Colour and width follow the terminal; a pipe gets every character.
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)
    with console.capture() as drawn:
        console.print(table)
    write(drawn.get(), nl=False)


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
