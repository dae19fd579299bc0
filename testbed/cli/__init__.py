"""The command line: each verb parses its options, calls the library, and prints.

A verb is a row in `VERBS` and a module of its name, which defines a click command named `command`. The module is
imported only when the verb runs, so `testbed --help` loads neither torch nor pandas. `testbed.cli.refusals` says which
exception ends a command with which exit code.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from testbed import __version__
from testbed.cli.meant import command_meant
from testbed.cli.refusals import encodable, refuse
from testbed.cli.terminal import READER_GONE, echo, leave, open_standard_streams, settle
from testbed.errors import INTERRUPTED, ConfigError
from testbed.running.ownership import given_to_sudo_user
from testbed.signals import end_at_signals, interrupt_at_signals

VERBS = {
    "doctor": "Test what this machine can emulate, and say what to install.",
    "calibrate": "Measure how much time this machine's software adds to a token.",
    "replay": "Run one experiment with one policy.",
    "resume": "Continue a run whose controller has died.",
    "compare": "Run one experiment with several policies, side by side.",
    "sweep": "Run one experiment over values of its keys.",
    "watch": "Show a run in the terminal, while it runs or afterwards.",
    "plot": "Draw the figures of one or more runs.",
    "report": "Sum up one or more runs in one page.",
    "plan": "Predict how a model would run on devices that you may buy.",
    "validate": "Predict what others measured on real boards.",
    "profile": "Measure this machine with an engine, for the catalogue.",
    "explain": "Say where the milliseconds of a run's tokens went.",
    "export": "Write a run as a trace that Perfetto opens.",
    "traces": "List, show, import or generate traces.",
    "topologies": "List, show, draw or generate topologies.",
    "ping": "Build a topology's network and ping between its devices.",
    "iperf": "Build a topology's network and measure TCP in it.",
    "shell": "Open Mininet's command line in a topology's network.",
    "models": "List or show models, or fetch one from the Hugging Face hub.",
    "policies": "List the placement policies.",
    "runs": "List, show, compare or remove runs.",
    "exec": "Run a command inside a device of a run that is up.",
    "sandbox": "Run a command on a kernel of its own, with netem; no root.",
    "completion": "Let your shell complete commands, options and names.",
    "clean": "Remove what dead runs have left on this machine.",
}
"""Verb -> its line in `testbed --help`; the verb's module is `testbed.cli.<verb>`."""

OBJECTS = (20_000, 20, 20)  # between searches for garbage: imports make many objects, and none of them is garbage

COMPLETING = "_TESTBED_COMPLETE"  # the variable by which a shell asks what completes a line


class VerbGroup(click.Group):
    """A click group that knows the names and help lines of its verbs, and imports a verb when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which one uses them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"testbed.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        _name_variables(command, f"TESTBED_{cmd_name.upper()}")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown verb, and name the known one that is most like it."""
        name = args[0]
        if name in ("help", "version") and not ctx.resilient_parsing:
            raise click.UsageError(f"{name!r} is not a command but an option: `testbed --{name}`", ctx)
        if name not in VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"{name!r} is not a command of testbed{command_meant(name, VERBS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs from the table, without importing any."""
        with formatter.section("Commands"):
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


@click.group(
    cls=VerbGroup,
    context_settings={"auto_envvar_prefix": "TESTBED", "help_option_names": ["-h", "--help"]},
    epilog="Every option can be set by an environment variable: TESTBED_REPLAY_TOKENS=48 is `replay --tokens 48`.",
)
@click.version_option(__version__, prog_name="testbed")
def cli() -> None:
    """Place the attention heads of a language model on emulated edge devices, and measure what it costs.

    Example: testbed replay experiments/quickstart.yaml --policy paper-search
    """


def run(args: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code. An error is one sentence on standard error."""
    try:
        given = sys.argv[1:] if args is None else list(args)
        for argument in given:
            if not encodable(argument):
                raise ConfigError(f"the argument '{argument}' is not UTF-8 text")
        # A verb ends with a code other than 0 by `ctx.exit(code)`; click returns that code here.
        code = cli.main(args=given, prog_name="testbed", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ConfigError.exit_code
    except SystemExit:  # click raises it after completing for a shell, and if the reader of a help page has gone
        return 0 if COMPLETING in os.environ else READER_GONE
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except Exception as error:
        # Until Python 3.12 the interpreter hides what interrupts a `__set_name__` of a module that is being imported.
        return _interrupted() if isinstance(error.__cause__, KeyboardInterrupt) else refuse(error)
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    echo("Interrupted.", err=True)
    return INTERRUPTED


def main() -> NoReturn:
    """Start here: the entry point of the `testbed` command."""
    # Our models need no plugins of pydantic, and to look for some it reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    gc.set_threshold(*OBJECTS)
    open_standard_streams()
    interrupt_at_signals()
    try:
        with given_to_sudo_user():
            code = run()
        end_at_signals()
    except KeyboardInterrupt:  # a signal came after the verb's end, or a second one came
        end_at_signals()
        code = INTERRUPTED
    leave(settle(code, give_up=code == INTERRUPTED))
