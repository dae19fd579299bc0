"""`testbed runs`: what has been run, how it ended, how two runs differ; and runs that go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from testbed.cli.meant import verb_meant
from testbed.cli.names import ALL_RUNS, RUN, RunPath
from testbed.cli.run_table import show_difference, show_facts, show_list
from testbed.cli.show import echo, json_option, print_json
from testbed.errors import ConfigError, EnvironmentLacks

FOLDER = click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
YES = click.option("--yes", is_flag=True, help="Do not ask.")
FORCE = click.option("--force", is_flag=True, help="Also a run without a summary that changed a moment ago.")


class RunsGroup(click.Group):
    """A group whose verb `list` may be left out: `testbed runs FOLDER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` in front of what is no verb, and refuse what looks like a misspelt one."""
        first = args[0] if args else ""
        if not ctx.resilient_parsing and first not in self.commands and first not in ctx.help_option_names:
            near = verb_meant(first, self.commands)
            if near and not Path(first).exists():
                raise click.UsageError(f"{first!r} is neither a folder nor a verb of runs, did you mean {near!r}?", ctx)
            args = ["list", *args]
        return super().parse_args(ctx, args)


def chosen(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose among runs."""
    options = [
        click.option("--experiment", multiple=True, metavar="NAME", help="Only this one, or a pattern: 'gpt2*'."),
        click.option("--policy", multiple=True, metavar="NAME", help="Only this policy."),
        click.option("--backend", multiple=True, metavar="NAME", help="Only this backend."),
        click.option("--model", multiple=True, metavar="NAME", help="Only this preset, or folder or file of a model."),
        click.option("--status", multiple=True, metavar="STATUS",
                     help="Only done, oom, failed, interrupted, unfinished, damaged or 'too new'."),
        click.option("--since", metavar="DATE|AGE", help="Only runs from then on: 2026-11-29, or '2 days'."),
        click.option("--before", metavar="DATE|AGE", help="Only runs before then."),
    ]  # fmt: skip
    for option in reversed(options):
        verb = option(verb)
    return verb


@click.group(cls=RunsGroup)
def command() -> None:
    """List the runs in a folder, show or compare some, or remove some.

    `testbed runs FOLDER` lists them, too. Options that choose may be given more than once; each value adds runs.

    Example: testbed runs list --policy headroom --since '2 days' --sort mean
    """


@command.command("list")
@FOLDER
@chosen
@click.option("--sort", default="created", show_default=True, metavar="KEY",
              help="created, name, experiment, policy, status, mean, migrations, tokens or size.")  # fmt: skip
@click.option("--reverse", is_flag=True, help="Newest or largest first.")
@json_option
def list_verb(folder: Path, sort: str, reverse: bool, as_json: bool, **choice: Any) -> None:
    """List the runs in FOLDER (default: runs) and its subfolders, oldest first.

    Example: testbed runs list runs/demo --status oom --status failed --json
    """
    from testbed.runlog.folder import is_run_folder
    from testbed.running.run_filters import SORT_KEYS, sort_runs
    from testbed.running.run_list import list_runs
    from testbed.strict_yaml import suggest

    if sort not in SORT_KEYS:
        raise ConfigError(f"--sort {sort}: runs cannot be sorted by that{suggest(sort, SORT_KEYS)}")
    wanted = _wanted(choice)
    found = list_runs(folder)
    rows = sort_runs(wanted.choose(found), sort, reverse)
    if as_json:
        print_json(rows)
    elif not found and is_run_folder(folder):
        raise ConfigError(f"{folder} is a run, not a folder of runs: `testbed runs show {folder}` shows it")
    elif not found:
        echo(f"There is no run in {folder}; `testbed replay` makes one.")
    elif not rows:
        echo(f"None of the {len(found)} runs in {folder} is all of that.")
    else:
        show_list(rows)


@command.command("show")
@RUN
@json_option
def show_verb(run: Path, as_json: bool) -> None:
    """Show what one run was, how it ended, and its figures.

    Example: testbed runs show runs/20260101T000000Z-quickstart-paper-search
    """
    from testbed.running.run_facts import show_run

    found = show_run(run)
    if as_json:
        print_json(found)
    else:
        show_facts(found)


@command.command("diff")
@click.argument("one", metavar="RUN", type=RunPath())
@click.argument("other", metavar="OTHER", type=RunPath())
@json_option
def diff_verb(one: Path, other: Path, as_json: bool) -> None:
    """Show how two runs differ: in settings, in figures, and from which token on.

    Example: testbed runs diff runs/20260101T000000Z-quickstart-static runs/20260101T000100Z-quickstart-greedy
    """
    from testbed.running.run_facts import diff_runs

    found = diff_runs(one, other)
    if as_json:
        print_json(found)
    else:
        show_difference(found)


@command.command("rm")
@ALL_RUNS
@YES
@FORCE
def rm_verb(runs: tuple[Path, ...], yes: bool, force: bool) -> None:
    """Remove runs. Only files that a run writes are removed; a folder with other files stays, with those files.

    Example: testbed runs rm runs/20260101T000000Z-quickstart-static --yes
    """
    from testbed.running.run_names import find_run

    _remove([find_run(run) for run in runs], yes, force)


@command.command("prune")
@FOLDER
@chosen
@click.option("--keep", type=click.IntRange(min=1), metavar="N",
              help="Keep the N newest of each experiment, policy, backend and model.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@YES
@FORCE
def prune_verb(folder: Path, keep: int | None, dry_run: bool, yes: bool, force: bool, **choice: Any) -> None:
    """Remove the runs in FOLDER (default: runs) and its subfolders that match all of the options.

    Example: testbed runs prune --status failed --status unfinished --before '2 days'
    """
    from testbed.running.run_filters import newest_of_each
    from testbed.running.run_list import list_runs
    from testbed.units import format_bytes

    wanted = _wanted(choice)
    if wanted.everything and keep is None:
        raise ConfigError("say which runs shall go, with --status failed, --before '30 d' or --keep 5, for example")
    rows = wanted.choose(list_runs(folder, links=False))
    if keep is not None:
        kept = {row["path"] for row in newest_of_each(rows, keep)}
        rows = [row for row in rows if row["path"] not in kept]
    if not rows:
        echo(f"No run in {folder} fits.")
        return
    size = format_bytes(sum(row["size_bytes"] for row in rows))
    if dry_run:
        show_list(rows)
        echo(f"{_runs(len(rows))} with {size} would go.")
        return
    _remove([Path(row["path"]) for row in rows], yes, force)


def _wanted(choice: dict[str, Any]) -> Any:
    from testbed.running.run_filters import Wanted, parse_moment

    for option in ("since", "before"):
        if choice[option] is not None:
            choice[option] = parse_moment(choice[option], f"--{option}")
    return Wanted(**choice)


def _remove(folders: list[Path], yes: bool, force: bool) -> None:
    """Ask, and remove runs; those that cannot go do not keep the others."""
    from testbed.running.remove_runs import remove_run

    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"{_runs(len(folders))} would be removed: say --yes, as nobody can be asked here")
        for folder in folders:
            echo(str(folder))
        click.confirm(f"Remove {_runs(len(folders))}?", abort=True, err=True)
    failures: list[ConfigError | EnvironmentLacks] = []
    for folder in dict.fromkeys(folders):
        try:
            left = remove_run(folder, force)
        except (ConfigError, EnvironmentLacks) as error:
            failures.append(error)
            continue
        kept = f"; the folder stays, because it also holds {', '.join(left[:3])}" if left else ""
        echo(f"Removed {folder}{kept}.")
    if failures:
        raise type(failures[0])("; ".join(map(str, failures)))


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
