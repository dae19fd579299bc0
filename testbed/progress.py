"""A progress bar, text that grows above one, and the text that may safely be written to a terminal.

It knows nothing of what makes progress. rich is imported only when a bar is drawn.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

SPEED_OVER_S = 3600.0  # the time left follows the steps of so long; an emulated run alone takes longer than rich's 30 s

# What people write and Python calls unprintable: all spaces, and the joiners of Persian and of emoji.
_WRITTEN = "\n\t\u00a0\u1680\u202f\u205f\u3000\u200c\u200d" + "".join(map(chr, range(0x2000, 0x200B)))


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

    with _bar(Console(stderr=True), total, label) as progress:
        yield lambda done: progress.update(progress.task_ids[0], completed=done)


def readable(text: str) -> str:
    """Escape the control characters in somebody's text, except newlines and tabs."""
    return printable(text, keep=_WRITTEN)


@contextmanager
def text_above_bar(total: int, label: str) -> Iterator[Callable[[int, str], None]]:
    """Write text to standard output, which must be a terminal, as it grows, with a bar below its last line.

    Call what the block gets with the number of steps that are done, and the text that has come. The text stays there
    when the bar has gone. A terminal that is lost is no error.
    """
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(file=sys.stdout, highlight=False)
    bar, last = _bar(console, total, label), Text()

    def show(done: int, text: str) -> None:
        nonlocal last
        *whole, last = Text(last.plain + readable(text)).wrap(console, console.width, tab_size=8) or [Text()]
        bar.update(bar.task_ids[0], completed=done)
        with suppress(OSError):
            for line in whole:
                console.print(line)
            live.refresh()

    live = Live(get_renderable=lambda: Group(last, bar), console=console, transient=True)
    with suppress(OSError):
        live.start()
    try:
        yield show
    finally:
        with suppress(OSError):
            live.stop()
            console.print(last)


def _bar(console: Console, total: int, label: str) -> Progress:
    """A bar that is not drawn yet."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, speed_estimate_period=SPEED_OVER_S)
    progress.add_task(printable(label), total=total)
    return progress
