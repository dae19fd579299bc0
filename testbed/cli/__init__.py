"""The command line: a verb parses its options, calls the library and prints; it decides nothing else.

Each verb lives in a module of its own that defines a click command named `command` and is imported only when
that verb runs, so that `testbed --help` loads neither torch nor pandas. `main` is the one place where an
exception becomes an exit code.
"""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from testbed import __version__
from testbed.errors import ConfigError, TestbedError

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
        # A verb that ends with another code than 0 says so by `ctx.exit(code)`, which click returns here.
        code = cli.main(args=None if args is None else list(args), prog_name="testbed", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ConfigError.exit_code
    except click.ClickException as error:
        message = error.format_message().removesuffix(".")
        if isinstance(error, click.UsageError) and error.ctx is not None:
            message += f"; see `{error.ctx.command_path} --help`"
        click.echo(f"Error: {message}", err=True)
        return ConfigError.exit_code
    except TestbedError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except OSError as error:
        # The user's doing more often than ours: --out on a read-only disk, where none can be or where a file is, a file
        # of another user.
        users = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
        if error.errno not in users or error.filename is None:
            raise
        click.echo(f"Error: {error.filename}: {error.strerror}", err=True)
        return ConfigError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """Entry point of the `testbed` command."""
    sys.exit(run())
