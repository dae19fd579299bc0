"""`testbed traces`: what changes during a run; list, show, import and generate it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.names import FileOrName
from testbed.cli.options import FILE_OUT
from testbed.cli.show import echo, json_option, print_json, print_table
from testbed.cli.trace_files import read_trace, reading_options
from testbed.errors import ConfigError
from testbed.strict_yaml import shown

if TYPE_CHECKING:
    from testbed.traces.model import Trace


@click.group()
def command() -> None:
    """List the bundled traces; show, import or generate one.

    Example: testbed traces show memory-squeeze
    """


@command.command("list")
@json_option
def list_traces(as_json: bool) -> None:
    """List the bundled traces.

    Example: testbed traces list --json
    """
    from testbed.traces.bundled import RECIPES, path_of
    from testbed.traces.model import Trace

    rows: list[dict[str, Any]] = []
    for name, recipe in RECIPES.items():
        trace = Trace.load(path_of(name))
        rows.append(
            {
                "name": name,
                "summary": recipe.summary,
                "targets": sorted({change.target for change in trace.changes}),
                "end": trace.end,
                "path": str(path_of(name)),
            }
        )
    if as_json:
        print_json(rows)
        return
    shown = [row | {"targets": ", ".join(row["targets"])} for row in rows]
    print_table({"name": "name", "targets": "target", "summary": "what happens", "path": "file"}, shown)


@command.command("show")
@click.argument("trace", metavar="NAME|FILE", type=FileOrName("trace"))
@reading_options
@json_option
def show_trace(trace: Path, as_json: bool, **reading: Any) -> None:
    """Sum up a bundled trace or a file: one line for each series.

    Times are in the unit of the experiment's trace clock: seconds, or tokens.

    Example: testbed traces show memory-squeeze

    A recorded file of yours: testbed traces show att.up --target link/b --direction up
    """
    from testbed.bundled import find_file

    _print_trace(*read_trace(find_file("trace", trace), reading), as_json=as_json)


@command.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@FILE_OUT
@reading_options
@json_option
def import_trace(file: Path, out: Path | None, as_json: bool, **reading: Any) -> None:
    """Read a recorded trace and write it as native CSV.

    Example: testbed traces import att.up --target link/b --direction up --out att.csv, where att.up is a file of yours

    Any log with a header: testbed traces import log.csv --time timestamp_ms --down dl_kbps --up ul_kbps --target link/b
    """
    trace, file_format = read_trace(file, reading)
    _give(trace, file_format, out, as_json)


@command.command("generate")
@click.argument("kind")
@click.option("--target", required=True, help="What it drives: link/DEVICE or device/DEVICE.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same trace.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="An option of the generator.")
@FILE_OUT
@json_option
def generate_trace(
    kind: str, target: str, seed: int, settings: tuple[str, ...], out: Path | None, as_json: bool
) -> None:
    """Make a trace from a seed: cellular-walk, cpu-contention, link-collapse, memory-squeeze or outage.

    Example: testbed traces generate outage --target link/b --set at=30 --set 'rate=50 Mbit/s' --out outage.csv
    """
    from testbed.traces.generate import generate

    _give(generate(kind, target, seed, dict(_key_and_value(setting) for setting in settings)), None, out, as_json)


def _key_and_value(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not key or not equals:
        raise ConfigError(f"--set {shown(setting)} is none of a generator: write KEY=VALUE, like 'rate=50 Mbit/s'")
    return key, value


def _give(trace: Trace, file_format: str | None, out: Path | None, as_json: bool) -> None:
    """Write the trace to a file, or print it if none is named."""
    from testbed.traces import native

    if out is not None:
        native.save(trace, out)
        if as_json:
            _print_trace(trace, file_format, as_json, file=str(out))
        else:
            echo(f"{out}: {len(trace.changes)} rows, {_ending(trace, file_format)}")
    elif as_json:
        _print_trace(trace, file_format, as_json)
    else:
        echo(native.dumps(trace), nl=False)


def _ending(trace: Trace, file_format: str | None) -> str:
    """Return how the trace was read and how it ends."""
    read_as = "" if file_format is None else f"read as {file_format}, "
    period = "" if trace.period is None else f", period {trace.period:g}"
    return f"{read_as}end: {trace.end}{period}"


def _print_trace(trace: Trace, file_format: str | None, as_json: bool, **also: Any) -> None:
    from testbed.traces.summary import summarise

    series = summarise(trace)
    if as_json:
        print_json(also | {"format": file_format} | trace.to_dict() | {"series": [asdict(one) for one in series]})
        return
    rows = [asdict(one) | {key: one.text(getattr(one, key)) for key in ("min", "mean", "max")} for one in series]
    headings = {"target": "target", "quantity": "quantity", "count": "rows", "start": "from", "end": "to"}
    print_table(headings | {key: key for key in ("min", "mean", "max")}, rows)
    echo(f"{trace.name}: {_ending(trace, file_format)}")
