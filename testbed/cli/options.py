"""Options, and kinds of option values, that several verbs take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from testbed.errors import ConfigError
from testbed.running.backends import BACKENDS, DEFAULT_TOLD
from testbed.units import parse_duration


def _refuse_options(ctx: click.Context, param: click.Parameter, settings: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a setting of what is no key of an experiment but another option."""
    from testbed.experiment.schema import Experiment

    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in Experiment.model_fields and any(f"--{key}" in other.opts for other in ctx.command.params):
            raise click.UsageError(
                f"--set {setting}: that is no key of an experiment, did you mean --{key} {value}?", ctx
            )
    return settings


SETTINGS = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the file.",
    callback=_refuse_options,
)
OUT = click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                   help="Folder for run folders.")  # fmt: skip
FILE_OUT = click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write [default: standard output]."
)
BACKEND = click.option(
    "--backend",
    type=click.Choice(list(BACKENDS)),
    help=" ".join([DEFAULT_TOLD, *(f"{row.name}: {row.note}." for row in BACKENDS.values() if row.note)]),
)
SHARE = click.option("--share-host", is_flag=True, help="Do not queue behind other emulated runs on this host.")
SCHEDULER = click.option(
    "--scheduler", metavar="tcp://HOST:PORT", help="A Dask scheduler [default: processes of this host]."
)
DASHBOARD = click.option("--dashboard", is_flag=True, help="Print the address of the scheduler's dashboard.")
CALIBRATE = click.option(
    "--calibrate",
    type=click.Choice(["off", "quick", "full"]),
    default="quick",
    show_default=True,
    help="How thoroughly to measure links and host before token 0.",
)
VERIFY = click.option("--verify", is_flag=True, help="Compare every token's logits with the single-process reference.")
ACCEPT = click.option("--accept-unfaithful", is_flag=True, help="Exit with 0 even if the emulation was not faithful.")
SUMMARY_AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print the summary as JSON, last and alone on standard output."
)
ROWS_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print rows and table as JSON.")
TOKENS = click.option("--tokens", type=int, help="Tokens to generate.")


class Once(click.Option):
    """An option that may be given once; click would take the last of several without a word."""

    def __init__(self, *arguments: Any, instead: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.instead = instead

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Refuse the second one, and say what takes several."""
        super().add_to_parser(parser, ctx)
        for name in self.opts:
            known = parser._long_opt[name]
            take = known.process

            def refuse_second(value: Any, state: Any, take: Any = take, name: str = name) -> None:
                if self.name in state.opts:
                    raise click.UsageError(
                        f"{name} is given more than once, and {ctx.info_name} takes one; {self.instead}", ctx
                    )
                take(value, state)

            known.process = refuse_second


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """Seconds from a typed duration like `500 ms`, or from a bare number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds; a text that is no duration fails as a wrong option does, which names the option."""
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_duration(f"{value} s" if re.fullmatch(r"[\d.]+", value.strip()) else value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
