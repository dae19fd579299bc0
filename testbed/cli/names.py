"""Kinds of arguments that are a path or a name, and what the shell completes for them.

A name is looked up where the file is read, so Python callers can use names, too. Runs alone are looked up here, because
`plot` and `report` take folders of runs as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from testbed.bundled import Kind, bundled

RUNS = Path("runs")  # where runs are, unless --out says otherwise


class FileOrName(click.Path):  # type: ignore[type-arg]  # generic only in new versions of click
    """A file, or the name of a bundled one."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(path_type=Path)
        self.kind = kind

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete bundled names, and files where no name begins so."""
        names = [name for name in bundled(self.kind) if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names] or super().shell_complete(ctx, param, incomplete)


class RunPath(click.Path):  # type: ignore[type-arg]
    """A run's folder, or the name of one in the folder `runs`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; a name that is only in `runs` becomes a path there."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        inside = RUNS / path
        return inside if not path.exists() and len(path.parts) == 1 and inside.is_dir() else path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of runs in the folder `runs` or in the folder that is being written, newest first."""
        from testbed.running.run_names import run_names

        folder, slash, begin = incomplete.rpartition("/")
        inside = Path(folder + slash) if slash else RUNS
        names = [f"{folder}{slash}{name}" for name in reversed(run_names(inside)) if name.startswith(begin)]
        return [CompletionItem(name) for name in names] or super().shell_complete(ctx, param, incomplete)


def _refuse_files(ctx: click.Context, param: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Refuse a file that is not there among runs: it was probably meant to be written."""
    out = any("--out" in option.opts for option in ctx.command.params)
    for path in paths:
        if out and path.suffix in (".html", ".md", ".tex", ".png", ".pdf", ".svg") and not path.exists():
            meant = f": did you mean --out {path}?" if ctx.info_name == "report" else ""
            raise click.UsageError(f"there is no run {path}{meant}", ctx)
    return paths


def complete_policy(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of policies."""
    from testbed.placement.policies import POLICIES

    return [CompletionItem(name, help=row.description) for name, row in POLICIES.items() if name.startswith(incomplete)]


EXPERIMENT = click.argument("experiment", type=FileOrName("experiment"))
RUN = click.argument("run", metavar="RUN", type=RunPath())
ALL_RUNS = click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=RunPath(), callback=_refuse_files)
