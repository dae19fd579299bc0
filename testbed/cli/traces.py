"""`testbed traces`: what changes during a run; list, show, import and generate it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from testbed.cli.options import Seconds
from testbed.cli.show import echo, json_option, print_json, print_table
from testbed.errors import ConfigError

if TYPE_CHECKING:
    from traces.model import Trace

_Function = TypeVar("_Function", bound=Callable[..., Any])


def reading_options(function: _Function) -> _Function:
    """The options that say how a trace file is to be read."""
    options = [
        click.option("--format", "file_format", help="Its format, where the name does not tell: native, mahimahi, ..."),
        click.option("--target", help="What a recorded trace drives: link/DEVICE."),
        click.option("--direction", help="Which direction of the link: up, down or both."),
        click.option(
            "--bin", "bin_s", type=Seconds(), help="Window that mahimahi's packets are averaged over, e.g. `500 ms`."
        ),
        click.option("--end", help="What happens after its last row: loop, hold or stop."),
        click.option("--period", type=float, help="Length of a loop, or the time of the stop, on the trace's clock."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group()
def command() -> None:
    """List the bundled traces; show, import or generate one.

    Example: testbed traces show memory-squeeze
    """


@command.command("list")
@json_option
def list_traces(as_json: bool) -> None:
    """List the traces that come with the package.

    Example: testbed traces list --json
    """
    from traces.bundled import RECIPES, path_of
    from traces.model import Trace

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
@click.argument("trace", metavar="NAME|FILE")
@reading_options
@json_option
def show_trace(trace: str, as_json: bool, **reading: Any) -> None:
    """Sum up a bundled trace or a file: one line for each series.

    Times are in the unit of the experiment's trace clock: seconds, or tokens.

    Example: testbed traces show memory-squeeze

    A recorded file of yours: testbed traces show att.up --target link/b --direction up
    """
    _print_trace(_read(_find(trace), reading), as_json)


@command.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Native CSV file to write.")
@reading_options
@json_option
def import_trace(file: Path, out: Path, as_json: bool, **reading: Any) -> None:
    """Read a recorded trace and write it as native CSV.

    Example: testbed traces import att.up --target link/b --direction up --out att.csv, where att.up is a file of yours
    """
    _save(_read(file, reading), out, as_json)


@command.command("generate")
@click.argument("kind")
@click.option("--target", required=True, help="What it drives: link/DEVICE or device/DEVICE.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same trace.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="An option of the generator.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write [standard output].")
@json_option
def generate_trace(
    kind: str, target: str, seed: int, settings: tuple[str, ...], out: Path | None, as_json: bool
) -> None:
    """Make a trace from a seed: cellular-walk, cpu-contention, link-collapse, memory-squeeze or outage.

    Example: testbed traces generate outage --target link/b --set at=30 --set 'rate=50 Mbit/s' --out outage.csv
    """
    from traces import native
    from traces.generate import generate

    trace = generate(kind, target, seed, dict(_key_and_value(setting) for setting in settings))
    if out is not None:
        _save(trace, out, as_json)
    elif as_json:
        _print_trace(trace, as_json)
    else:
        echo(native.dumps(trace), nl=False)


def _key_and_value(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not key or not equals:
        raise ConfigError(f"--set {setting!r} is no setting of a generator: write KEY=VALUE, like 'rate=50 Mbit/s'")
    return key, value


def _find(name_or_path: str) -> Path:
    from traces.bundled import RECIPES, path_of

    if name_or_path in RECIPES and not Path(name_or_path).is_file():
        return path_of(name_or_path)
    if not Path(name_or_path).is_file():
        raise ConfigError(f"{name_or_path} is neither a trace file nor a bundled trace: those are {', '.join(RECIPES)}")
    return Path(name_or_path)


def _read(path: Path, reading: dict[str, Any]) -> Trace:
    from traces.model import Trace

    given = {key: value for key, value in reading.items() if value is not None}
    return Trace.load(path, given.pop("file_format", None), **given)


def _save(trace: Trace, out: Path, as_json: bool) -> None:
    from traces import native

    native.save(trace, out)
    if as_json:
        _print_trace(trace, as_json, file=str(out))
    else:
        echo(f"{out}: {len(trace.changes)} rows, end: {trace.end}")


def _print_trace(trace: Trace, as_json: bool, **also: Any) -> None:
    from traces.summary import summarise

    series = summarise(trace)
    if as_json:
        print_json(also | trace.to_dict() | {"series": [asdict(one) for one in series]})
        return
    rows = [
        asdict(one) | {key: one.text(getattr(one, key)) for key in ("min", "mean", "max")} for one in series
    ]
    headings = {"target": "target", "quantity": "quantity", "count": "rows", "start": "from", "end": "to"}
    print_table(headings | {key: key for key in ("min", "mean", "max")}, rows)
    period = "" if trace.period is None else f", period {trace.period:g}"
    echo(f"{trace.name}: end: {trace.end}{period}")
