"""The command line: a verb parses its options, calls the library and prints; it decides nothing else.

Each verb lives in a module of its own that defines a click command named `command` and is imported only when
that verb runs, so that `testbed --help` loads neither torch nor pandas. `main` is the one place where an
exception becomes an exit code.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from testbed import __version__
from testbed.errors import ConfigError, EnvironmentLacks, TestbedError
from testbed.running.giving_back import giving_back
from testbed.signals import end_at_signals, interrupt_at_signals
from testbed.terminal import READER_GONE, echo, open_standard_streams, printable, settle

VERBS = {
    "doctor": "Try what this machine can emulate, each line with its remedy.",
    "calibrate": "Measure once what this machine's software adds to a token.",
    "replay": "Run one experiment with one policy.",
    "compare": "Run one experiment with several policies, side by side.",
    "sweep": "Run one experiment over values of its keys.",
    "plot": "Draw the figures of one or more runs.",
    "report": "Sum up one or more runs in one page.",
    "traces": "List, show, import or generate traces.",
    "topologies": "List, show or generate topologies.",
    "policies": "List the placement policies.",
    "runs": "List the runs in a folder.",
    "exec": "Run a command inside a device of a run that is up.",
    "sandbox": "Run a command on a kernel of its own, with netem; no root.",
    "clean": "Remove what runs that died have left on this machine.",
}
"""Verb -> its line in `testbed --help`; the verb's module is `testbed.cli.<verb>`."""

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
LONGEST_NAME = 200  # characters of a path in a sentence
LONGEST_MESSAGE = 4000  # characters of a sentence: some name many devices


class VerbGroup(click.Group):
    """A click group that knows its verbs by name and help line, and imports a verb's module when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the verbs in the order of the work, not of the alphabet."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module; None where there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"testbed.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        _name_variables(command, f"TESTBED_{cmd_name.upper()}")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown verb with the nearest known one."""
        name = args[0]
        if name not in VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"{name!r} is no verb of testbed{nearest(name, VERBS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs from the table, without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _name_variables(command: click.Command, prefix: str) -> None:
    """Name each option's environment variable after the option as it is written, not after our parameter."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            option = max(parameter.opts, key=len).lstrip("-")
            parameter.envvar = f"{prefix}_{option}".replace("-", "_").upper()
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _name_variables(inner, f"{prefix}_{name.upper()}")


def nearest(name: str, known: Sequence[str] | dict[str, str]) -> str:
    """`, did you mean 'replay'` for a misspelt name, or the known names where none is near."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}" if close else f": it must be one of {', '.join(known)}"


@click.group(
    cls=VerbGroup,
    context_settings={"auto_envvar_prefix": "TESTBED", "help_option_names": ["-h", "--help"]},
    epilog="Every option can be set by an environment variable: TESTBED_REPLAY_TOKENS=48 is `replay --tokens 48`.",
)
@click.version_option(__version__, prog_name="testbed")
def cli() -> None:
    """Place the attention heads of a language model on emulated edge devices, and measure what it costs.

    Example: testbed replay experiments/quickstart.yaml --policy resource-aware
    """


def run(args: Sequence[str] | None = None) -> int:
    """Carry out one command line and give its exit code; what goes wrong is one sentence on standard error."""
    try:
        given = sys.argv[1:] if args is None else list(args)
        for argument in given:
            if not _encodable(argument):
                raise ConfigError(f"the argument '{argument}' is not UTF-8 text")
        # A verb that ends with another code than 0 says so by `ctx.exit(code)`, which click returns here.
        code = cli.main(args=given, prog_name="testbed", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ConfigError.exit_code
    except click.ClickException as error:
        message = error.format_message().removesuffix(".")
        if isinstance(error, click.UsageError) and error.ctx is not None:
            message += f"; see `{error.ctx.command_path} --help`"
        return _refuse(message, ConfigError.exit_code)
    except TestbedError as error:
        return _refuse(str(error), error.exit_code)
    except OSError as error:
        if error.errno in MACHINES:
            which = "" if error.filename is None else f"{_named(error.filename)}: "
            return _refuse(f"{which}{error.strerror}", EnvironmentLacks.exit_code)
        if error.errno not in USERS or error.filename is None:
            raise
        return _refuse(f"{_named(error.filename)}: {error.strerror}", ConfigError.exit_code)
    except MemoryError as error:
        told = f" ({error})" if str(error) else ""
        return _refuse(f"this machine has not enough memory for that{told}", EnvironmentLacks.exit_code)
    except UnicodeEncodeError as error:
        if _encodable(error.object):
            raise
        return _refuse(f"'{error.object[-80:]}' is not UTF-8 text", ConfigError.exit_code)
    except SystemExit:  # click's answer where the reader of a help page has gone
        return READER_GONE
    except (click.Abort, KeyboardInterrupt):
        echo("Interrupted.", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


# The user's doing more often than ours: --out on a read-only disk, where none can be or where a file is, a file of
# another user, a name that no file can have.
USERS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.ETXTBSY, errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.EMLINK,
)  # fmt: skip
# What this machine has run out of, or does not do as it should.
MACHINES = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS,
    errno.EIO, errno.ESTALE, errno.ENOLCK, errno.ENOTCONN, errno.ESHUTDOWN,
)  # fmt: skip


def _refuse(message: str, code: int) -> int:
    echo(f"Error: {printable(_short(message, LONGEST_MESSAGE))}", err=True)
    return code


def _named(filename: object) -> str:
    """A file as a sentence names it: its whole path, unless nobody could read it."""
    return _short(os.fsdecode(filename) if isinstance(filename, bytes) else str(filename), LONGEST_NAME)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def _encodable(text: str) -> bool:
    """Whether the text has no bytes in it that were none of UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def main() -> NoReturn:
    """Entry point of the `testbed` command."""
    open_standard_streams()
    interrupt_at_signals()
    try:
        with giving_back():
            code = run()
        end_at_signals()
    except KeyboardInterrupt:  # it came after the verb's end, or a second one came
        end_at_signals()
        code = INTERRUPTED
    sys.exit(settle(code, give_up=code == INTERRUPTED))
