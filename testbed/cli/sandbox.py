"""`testbed sandbox`: a command on a kernel of its own, with netem, cgroup v2 and Open vSwitch, without root."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext

import click

from testbed.cli.options import Seconds
from testbed.cli.show import say
from testbed.errors import ConfigError


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--memory", default="4G", show_default=True, metavar="SIZE", help="The guest's memory.")
@click.option(
    "--timeout", "timeout_s", type=Seconds(), help="End the command after this time, e.g. `10 min` [default: never]."
)
@click.option("--share-host", is_flag=True, help="Do not queue behind emulated runs on this host.")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND")
@click.pass_context
def command(
    ctx: click.Context, memory: str, timeout_s: float | None, share_host: bool, arguments: tuple[str, ...]
) -> None:
    """Run COMMAND as root in a User-Mode Linux guest on this machine's files, with your rights to them.

    Its output and exit code are passed through, and its network, namespaces and cgroups end with it.

    Example: testbed sandbox -- testbed replay experiments/quickstart.yaml --set delay=netem
    """
    from testbed.emulation.host_lock import host_lock
    from testbed.sandbox import guest

    memory_bytes = memory_size(memory)
    stdin = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer
    streams = guest.Streams(stdin, sys.stdout.buffer, sys.stderr.buffer)
    with nullcontext() if share_host else host_lock(say):
        code = guest.run(arguments, streams, memory_bytes=memory_bytes, timeout_s=timeout_s)
    ctx.exit(code)


def memory_size(text: str) -> int:
    """Bytes from `4G`, `512M` or a typed size like `4 GiB`; raises ConfigError below what a guest needs."""
    from testbed.sandbox.guest import LEAST_MEMORY_BYTES
    from testbed.units import format_bytes, parse_bytes

    size = parse_bytes(re.sub(r"(?<=[\d ])([KMGT])$", r"\1iB", text.strip()))
    if size < LEAST_MEMORY_BYTES:
        raise ConfigError(f"--memory {text} is too little for a guest: give it {format_bytes(LEAST_MEMORY_BYTES)}")
    return size
