"""What was probably meant by a command line that click refuses: a verb, an option or an argument that nothing takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

import click
from click.core import ParameterSource

ELSEWHERE = {
    "run": "replay", "start": "replay", "simulate": "replay", "show": "runs show", "list": "runs list",
    "ls": "runs list", "diff": "runs diff", "rm": "runs rm", "delete": "runs rm", "remove": "runs rm",
    "draw": "plot", "figures": "plot", "generate": "topologies generate", "fetch": "models fetch",
}  # fmt: skip
"""What people call a verb, where that is not like its name -> the verb."""

SAME_IN_GROUP = {
    "ls": "list", "delete": "rm", "remove": "rm", "compare": "diff", "draw": "graph", "plot": "graph",
    "download": "fetch", "get": "fetch", "create": "generate", "new": "generate", "convert": "import",
}  # fmt: skip
"""The same for the verbs of a group, such as `runs`."""

_NUMBER = re.compile(r"\d+(\.\d+)?x?")  # the beginning of a quantity, such as `10 Mbit/s` or `4x raspberry-pi-5`
_IN_FILE = ("policy", "policies", "seed", "seeds", "backend", "set", "over")  # what a sweep's file says


def verb_meant(name: str, verbs: Iterable[str]) -> str | None:
    """The verb of these that was probably meant: one of a similar name, or one that does what the word says."""
    known = list(verbs)
    if SAME_IN_GROUP.get(name) in known:
        return SAME_IN_GROUP[name]
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def command_meant(name: str, verbs: Iterable[str]) -> str:
    """The end of a refusal of an unknown first word: the command that was probably meant, or all of them."""
    from testbed.bundled import bundled

    if name in ELSEWHERE:
        return f", did you mean `testbed {ELSEWHERE[name]}`?"
    for verb, known in (("replay", bundled("experiment")), ("sweep", bundled("sweep"))):
        if name in known:
            return f", did you mean `testbed {verb} {name}`?"
    near = difflib.get_close_matches(name, list(verbs), n=1)
    return f", did you mean {near[0]!r}" if near else f": it must be one of {', '.join(verbs)}"


def with_what_was_meant(error: click.UsageError, message: str, ctx: click.Context) -> str:
    """The message of an error with what was probably meant, if that can be told."""
    if isinstance(error, click.NoSuchOption):
        return _with_option(error, message, ctx)
    if message.startswith("No such command") and isinstance(ctx.command, click.Group):
        return message + _verb_of_group(message.split("'")[1], ctx.command, ctx.command_path)
    if message.startswith("Got unexpected extra argument"):
        return message + _what_extra_arguments_mean(message, ctx)
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Parameter):
        return message + _value_meant(message, error.param, ctx)
    return message


def _with_option(error: click.NoSuchOption, message: str, ctx: click.Context) -> str:
    from testbed.experiment.schema import Experiment

    name, word = error.option_name, error.option_name.lstrip("-")
    unknown = f"No such option {name!r}"
    if word in ("trace", "model"):
        word = {"trace": "traces", "model": "model.preset"}[word]
    key = word.partition(".")[0] in Experiment.model_fields
    if key and any(option.name == "overrides" for option in ctx.command.params):
        return f"{unknown}: did you mean --set {word}={'[NAME]' if word == 'traces' else 'VALUE'}?"
    if ctx.info_name == "sweep" and (key or word in _IN_FILE):
        return f"{unknown}: a sweep's file says that, with its keys policies, seeds, backend and over"
    if ctx.parent is None and not error.possibilities:
        return f"{unknown}: options of a command stand behind it, as in `testbed replay quickstart --dry-run`"
    known = [option for each in ctx.command.get_params(ctx) for option in each.opts if option.startswith(f"-{name}")]
    if len(name) == len("-x") and known and not error.possibilities:
        return f"{message}: options are written in full, as {' or '.join(known)}"
    return message


def _verb_of_group(name: str, group: click.Group, path: str) -> str:
    from testbed.bundled import PLACES, bundled

    verb = verb_meant(name, group.commands)
    if any(name in bundled(kind) for kind in PLACES) and "show" in group.commands:
        return f": did you mean `{path} show {name}`?"
    return f": did you mean {verb!r}?" if verb else f": it must be one of {', '.join(group.commands)}"


def _value_meant(message: str, param: click.Parameter, ctx: click.Context) -> str:
    """What was probably meant by a value that its option or argument does not take."""
    value = message.partition(": '")[2].partition("'")[0]
    if isinstance(param, click.Option) and param.multiple and "," in value:
        return f": to give several values, write `{param.opts[0]}` before each"
    if isinstance(param, click.Argument) and any(f"--{value}" in option.opts for option in ctx.command.params):
        return f": did you mean --{value}?"
    return ""


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
        if isinstance(option, click.Option) and (extra in _values(option) or _is_token(extra, option)):
            return f": did you mean {option.opts[0]} {extra}?"
    again = [
        f"`{option.opts[0]}`" for option in ctx.command.params
        if isinstance(option, click.Option) and option.multiple and option.name is not None
        and ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]  # fmt: skip
    return f": to give several values, write {' or '.join(again)} before each" if again else ""


def _is_token(extra: str, option: click.Option) -> bool:
    return extra.replace("-", "").isdecimal() and option.opts[0] in ("--token", "--tokens")


def _values(option: click.Option) -> Collection[str]:
    """The values that an option can have, where they are known."""
    if isinstance(option.type, click.Choice):
        return option.type.choices
    if option.name == "policy":
        from testbed.placement.policies import POLICIES

        return POLICIES
    return ()
