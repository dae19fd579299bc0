"""A progress bar on standard error, and the text that may safely be written to a terminal.

It knows nothing of what makes progress. rich is imported only when a bar is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def printable(text: str, keep: str = "") -> str:
    """Escape every character that a terminal would not print as itself, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )


@contextmanager
def progress_bar(wanted: bool, total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Draw a bar if it is wanted and standard error is a terminal.

    Call what the block gets with the number of steps that are done, out of `total`.
    """
    if not (wanted and sys.stderr is not None and sys.stderr.isatty()):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(printable(label), total=total)
        yield lambda done: progress.update(task, completed=done)
