"""`testbed completion`: have the shell complete verbs, options and names."""

from __future__ import annotations

import os
from pathlib import Path

import click

from testbed.cli.show import echo
from testbed.errors import ConfigError, EnvironmentLacks
from testbed.files import make_folder, write_text

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--install", is_flag=True, help="Write the script where the shell looks for it.")
@click.pass_context
def command(ctx: click.Context, shell: str | None, install: bool) -> None:
    """Print the script that completes `testbed` in SHELL (default: yours), or install it.

    It completes commands, options and policies, and names of experiments, topologies, traces and runs.

    Example: testbed completion --install

    For this shell only: eval "$(testbed completion bash)"
    """
    shell = shell or _own_shell()
    script = _script(ctx.find_root().command, shell)
    if not install:
        echo(script, nl=False)
        return
    path, more = _place(shell)
    try:
        make_folder(path.parent)
    except OSError as error:
        raise EnvironmentLacks(f"{path.parent} cannot be made: {error.strerror}") from error
    write_text(path, script)
    echo(f"{path}: written. {more}")


def _own_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise ConfigError(f"$SHELL is {name or 'not set'}: say which shell, {', '.join(SHELLS)}")
    return name


def _script(root: click.Command, shell: str) -> str:
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    # Not `source()`: for bash that starts a bash to check its version.
    made = found(root, {}, "testbed", "_TESTBED_COMPLETE")
    return made.source_template % made.source_vars()


def _place(shell: str) -> tuple[Path, str]:
    """Return where a shell looks for a user's completions, and what else it needs."""
    home = Path.home()
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    if shell == "bash":
        folder = Path(os.environ.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion")
        return folder / "completions" / "testbed", "New shells use it, where the package bash-completion is installed."
    if shell == "fish":
        return settings / "fish" / "completions" / "testbed.fish", "New shells use it."
    return home / ".zfunc" / "_testbed", (
        "Add to ~/.zshrc, if it is not there: fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit"
    )
