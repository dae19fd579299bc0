"""Errors as a user sees them: one sentence on standard error, and one exit code for each kind of remedy.

An exception that is neither the user's nor the machine's doing is a bug. It is raised again and keeps its traceback.
"""

from __future__ import annotations

import errno
import os

import click

from testbed.cli.meant import with_what_was_meant
from testbed.cli.terminal import echo
from testbed.errors import ConfigError, EnvironmentLacks, TestbedError
from testbed.progress import printable

PLAINLY = {
    "a valid integer range": "a whole number",
    "a valid float range": "a number",
    "a valid float": "a number",
    "a valid integer": "a whole number",
}
LONGEST_NAME = 200  # characters of a path in a sentence
LONGEST_MESSAGE = 4000  # characters of a sentence; some name many devices

# What a user can mend: --out on a read-only disk, below a file, or in a folder of another user; a name that no file can
# have.
OF_THE_USER = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.ETXTBSY, errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.EMLINK,
)  # fmt: skip
# What this machine has run out of, or does not do as it should.
OF_THE_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS,
    errno.EIO, errno.ESTALE, errno.ENOLCK, errno.ENOTCONN, errno.ESHUTDOWN,
)  # fmt: skip


def refuse(error: Exception) -> int:
    """Print what was wrong and return the exit code; raises the error again if it is a bug."""
    message, code = _explained(error)
    echo(f"Error: {printable(_short(message, LONGEST_MESSAGE))}", err=True)
    return code


def encodable(text: str) -> bool:
    """Say whether the text contains no bytes that were not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _explained(error: Exception) -> tuple[str, int]:
    """Return the sentence and the exit code for an error; raises it again if it is a bug."""
    match error:
        case click.ClickException():
            message = error.format_message().removesuffix(".")
            for theirs, ours in PLAINLY.items():
                message = message.replace(theirs, ours)
            if isinstance(error, click.UsageError) and error.ctx is not None:
                message = with_what_was_meant(error, message, error.ctx)
                message += f"; see `{error.ctx.command_path} --help`"
            return message, ConfigError.exit_code
        case TestbedError():
            return str(error), error.exit_code
        case OSError() if error.errno in OF_THE_MACHINE:
            which = "" if error.filename is None else f"{_named(error.filename)}: "
            return f"{which}{error.strerror}", EnvironmentLacks.exit_code
        case OSError() if error.errno in OF_THE_USER and error.filename is not None:
            return f"{_named(error.filename)}: {error.strerror}", ConfigError.exit_code
        case MemoryError():
            told = f" ({error})" if str(error) else ""
            return f"this machine has not enough memory for that{told}", EnvironmentLacks.exit_code
        case UnicodeEncodeError() if not encodable(error.object):
            return f"'{error.object[-80:]}' is not UTF-8 text", ConfigError.exit_code
    raise error


def _named(filename: object) -> str:
    """Return the path of a file as a sentence names it: whole, unless it is so long that nobody could read it."""
    return _short(os.fsdecode(filename) if isinstance(filename, bytes) else str(filename), LONGEST_NAME)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
