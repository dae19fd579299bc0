"""`testbed export`: a run as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.names import RUN
from testbed.cli.show import echo, json_option, print_json


class TokenRange(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """The first and the last of some tokens, from `40-56` or `40`."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return both numbers; a text that is no range fails as a wrong option does."""
        if isinstance(value, tuple):
            return value
        first, dash, last = str(value).partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            self.fail(f"{value!r} must be a token's number, or two with a dash, such as 40-56", param, ctx)
        return int(first), int(last or first)


@click.command()
@RUN
@click.option("--perfetto", is_flag=True, default=True, help="Write Chrome's trace event format [the only one so far].")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write [default: RUN.perfetto.json]."
)
@click.option("--token", "tokens", metavar="FIRST-LAST", type=TokenRange(), help="Only these tokens [default: all].")
@json_option
def command(run: Path, perfetto: bool, out: Path | None, tokens: tuple[int, int] | None, as_json: bool) -> None:
    """Write RUN as a trace: what each device computed and sent, migrations, decisions, steps of traces and faults.

    Open the file at https://ui.perfetto.dev (it stays on your machine) or in chrome://tracing.

    Example: testbed export runs/20260101T000000Z-quickstart-static --perfetto --token 40-56 --out trace.json
    """
    from testbed.running.export import export_trace

    out = out or Path(f"{run.name}.perfetto.json")
    first, last = tokens or (0, None)
    counts = export_trace(run, out, first, last)
    if as_json:
        print_json({"file": str(out), "events": counts})
        return
    told = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())
    echo(f"{out}: {told}.")
