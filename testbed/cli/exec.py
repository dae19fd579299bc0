"""`testbed exec`: a command inside a device of a run that is up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Annotated

import click
import msgspec

from testbed.errors import ConfigError

Pid = Annotated[int, msgspec.Meta(gt=0, lt=2**31)]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("device")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND")
@click.pass_context
def command(ctx: click.Context, run: Path, device: str, arguments: tuple[str, ...]) -> None:
    """Run COMMAND in DEVICE's network namespace, in a RUN that `replay --hold` keeps up.

    Example: testbed exec runs/20260101T000000Z-quickstart-static b -- ping -c 3 10.0.0.1
    """
    from testbed.emulation.state_files import find_live
    from testbed.strict_json import checked, read_object

    live = run / "live.json"
    if not live.exists():
        raise ConfigError(f"{run} is not up: start it with `testbed replay EXPERIMENT --hold`")
    pids = checked(read_object(live), dict[str, Pid], str(live))
    if device not in pids:
        raise ConfigError(f"{run} has no device {device!r}: it has {', '.join(pids)}")
    state = find_live(run.resolve())
    if state is None or state.init is None:
        raise ConfigError(f"{run} is not up any more: its controller is gone; `testbed clean` removes what is left")
    # First into the capsule (its pids and mounts), then into the device's network by its pid there.
    enter = ["nsenter", "-t", str(state.init.pid)]
    if os.readlink(f"/proc/{state.init.pid}/ns/user") != os.readlink("/proc/self/ns/user"):
        enter += ["--user", "--preserve-credentials"]
    inner = ["nsenter", "-t", str(pids[device]), "--net", "--", *arguments]
    ctx.exit(subprocess.run([*enter, "--pid", "--mount", "--", *inner], check=False).returncode)
