"""Writes to the standard streams in a way that is safe for terminals; a failure is an error of one sentence.

All verbs print through `echo` or `write`. Text from files, folders and arguments may contain control characters or
characters that the encoding lacks; this module escapes them like Python's `repr`.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
from typing import NoReturn

import click

from testbed.errors import EnvironmentLacks
from testbed.progress import printable

READER_GONE = 141  # 128 + SIGPIPE, as shells report it


def echo(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Print lines of text on standard output, or a remark on standard error."""
    write(printable(text, keep="\n"), err, nl)


def write(text: str, err: bool = False, nl: bool = True) -> None:
    """Print text as it is, with its colours if the stream is a terminal.

    If standard output cannot be written, the command ends with an error, or quietly if its reader has gone. A remark on
    standard error that cannot be written is lost.
    """
    try:
        click.echo(text, err=err, nl=nl)
    except OSError as error:
        if err:
            return
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(READER_GONE) from None
        raise EnvironmentLacks(f"standard output cannot be written: {error.strerror}") from error


def open_standard_streams() -> None:
    """Make all three standard streams safe to use.

    The next file that is opened would take the place of a closed stream. So a closed input becomes empty, a closed
    standard error discards what is written, and writing to a closed output fails. A character that the encoding of a
    stream lacks is escaped.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # `open` returns the lowest free descriptor, which is this one.
            os.set_inheritable(os.open(os.devnull, flags), True)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def settle(code: int, give_up: bool = False) -> int:
    """Flush standard output, or discard the rest if that fails or is given up already; returns the exit code."""
    if give_up:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return code or EnvironmentLacks.exit_code
    return code


def leave(code: int) -> NoReturn:
    """End the process after what is to be done at its end, but without taking its modules apart.

    That would take as long as a fifth of a short command.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
