"""The trace files that `testbed traces` reads: its options on how to read one, and finding and reading it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from testbed.cli.options import Seconds
from testbed.cli.show import say

if TYPE_CHECKING:
    from testbed.traces.model import Trace

NO_TARGET = "link/DEVICE"
"""The target of a log's rows until its user names a link. No topology can have it, so no run mistakes it for one."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def reading_options(function: _Function) -> _Function:
    """Add the options that say how to read a trace file."""
    options = [
        click.option("--format", "file_format", help="Its format, where the name does not tell: native, mahimahi, ..."),
        click.option("--target", help="What a recorded trace drives: link/DEVICE."),
        click.option("--direction", help="Which direction of the link: up, down or both."),
        click.option(
            "--bin", "bin_s", type=Seconds(), help="Window that mahimahi's packets are averaged over, e.g. `500 ms`."
        ),
        click.option("--time", help="Of a CSV, the column of its times."),
        click.option("--step", type=Seconds(), help="Of a CSV without times, the seconds that a row stands for."),
        click.option("--down", help="Of a CSV, the column of the rates downwards."),
        click.option("--up", help="Of a CSV, the column of the rates upwards."),
        click.option("--time-unit", help="Unit of its times, where the column's name does not tell: s, ms, us, ns."),
        click.option("--time-format", help="How it writes dates, as strptime has it, where that is not ISO 8601."),
        click.option("--rate-unit", help="Unit of its rates, where the columns' names do not tell, e.g. `Mbit/s`."),
        click.option("--delimiter", help="What parts its columns, where the header does not tell: comma, tab, ..."),
        click.option("--decimal", help="Its decimal sign, where the numbers do not tell."),
        click.option("--missing", multiple=True, metavar="TEXT", help="What it writes where it has no measurement."),
        click.option("--group", multiple=True, metavar="COLUMN=VALUE", help="Take only rows with this value."),
        click.option("--clip", metavar="FROM,TO", help="Take only this part of the trace."),
        click.option("--offset", type=float, help="Begin later by this much, or with a negative one inside the trace."),
        click.option("--scale", type=float, help="Multiply the rates."),
        click.option("--end", help="What happens after its last row: loop, hold or stop."),
        click.option("--period", type=float, help="Length of a loop, or the time of the stop, on the trace's clock."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def read_trace(path: Path, reading: dict[str, Any]) -> tuple[Trace, str]:
    """Return the trace in a file, and the format that it was read as."""
    from testbed.traces import formats
    from testbed.traces.model import Trace

    given = {key: value for key, value in reading.items() if value not in (None, ())}
    columns = any(key in given for key in formats.COLUMNS)
    file_format = given.pop("file_format", None) or formats.guess(path, columns)
    if columns and "target" not in given:
        say(f"No --target is given: the rows name {NO_TARGET}; write your link's name in its place.")
        given["target"] = NO_TARGET
    return Trace.load(path, file_format, **given), file_format
