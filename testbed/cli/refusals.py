"""Errors as a user sees them: one sentence on standard error, and one exit code for each kind of remedy.

An exception that is neither the user's nor the machine's doing is a bug. It is raised again and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection

import click
from click.core import ParameterSource

from testbed.cli.terminal import echo
from testbed.errors import ConfigError, EnvironmentLacks, TestbedError
from testbed.progress import printable

PLAINLY = {
    "a valid integer range": "a whole number",
    "a valid float range": "a number",
    "a valid float": "a number",
    "a valid integer": "a whole number",
}
_NUMBER = re.compile(r"\d+(\.\d+)?x?")  # the beginning of a quantity, such as `10 Mbit/s` or `4x raspberry-pi-5`
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
                if isinstance(error, click.NoSuchOption) and not error.possibilities:
                    message += _options_that_begin_so(error.option_name, error.ctx)
                if message.startswith("Got unexpected extra argument"):
                    message += _what_extra_arguments_mean(message, error.ctx)
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


def _options_that_begin_so(name: str, ctx: click.Context) -> str:
    """What was probably meant by a letter: our options are words."""
    known = [option for each in ctx.command.get_params(ctx) for option in each.opts if option.startswith(f"-{name}")]
    return f": options are written in full, as {' or '.join(known)}" if len(name) == len("-x") and known else ""


def _what_extra_arguments_mean(message: str, ctx: click.Context) -> str:
    """What was probably meant by arguments that nothing takes."""
    if "(= " in message:
        return ": write KEY=VALUE without spaces"
    numbers = [value for value in ctx.params.values() if isinstance(value, str) and _NUMBER.fullmatch(value)]
    if numbers:
        rest = message.partition("(")[2].removesuffix(")") if len(numbers) == 1 else "..."
        quoted = " and ".join(f"'{number} {rest}'" for number in numbers)
        return f": put a value with spaces in quotes, as in {quoted}"
    extra = message.partition("(")[2].removesuffix(")")
    for option in ctx.command.params:
        if isinstance(option, click.Option) and extra in _values(option):
            return f": did you mean {option.opts[0]} {extra}?"
    again = [
        f"`{option.opts[0]}`" for option in ctx.command.params
        if isinstance(option, click.Option) and option.multiple and option.name is not None
        and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]  # fmt: skip
    return f": to give several values, write {' or '.join(again)} before each" if again else ""


def _values(option: click.Option) -> Collection[str]:
    """The values that an option can have, where they are known."""
    if isinstance(option.type, click.Choice):
        return option.type.choices
    if option.name == "policy":
        from testbed.placement.policies import POLICIES

        return POLICIES
    return ()


def _named(filename: object) -> str:
    """Return the path of a file as a sentence names it: whole, unless it is so long that nobody could read it."""
    return _short(os.fsdecode(filename) if isinstance(filename, bytes) else str(filename), LONGEST_NAME)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"
