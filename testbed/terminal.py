"""Writing to the standard streams: safely for terminals, and in one sentence where it cannot be done.

All that a verb prints goes through `echo` or `write`. What comes from files, folders and arguments may hold characters
that command a terminal, or that no encoding has; they are escaped here, as Python's `repr` would.
"""

from __future__ import annotations

import io
import os
import sys

import click

from testbed.errors import EnvironmentLacks

READER_GONE = 141  # 128 + SIGPIPE, as shells report it


def printable(text: str, keep: str = "") -> str:
    """The text with everything escaped that is not printed as itself, but for the characters to `keep`."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )


def echo(text: str = "", err: bool = False, nl: bool = True) -> None:
    """Print lines of text, on standard output or as a remark on standard error."""
    write(printable(text, keep="\n"), err, nl)


def write(text: str, err: bool = False, nl: bool = True) -> None:
    """Print text as it is, colours included where the stream is a terminal.

    What cannot be written to standard output ends the command, quietly where its reader has gone; a remark is lost.
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
    """Make all three streams safe to use.

    One that is closed would be the next file that is opened. Input is then empty, errors are lost, and writing output
    fails. A stream whose encoding lacks a character gets its escape.
    """
    for descriptor, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # the lowest number that is free is this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def settle(code: int) -> int:
    """Give up what standard output has not taken, so that the interpreter's end is quiet; returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return code or EnvironmentLacks.exit_code
    return code
