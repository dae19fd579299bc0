"""`testbed plan`: whether a model fits on some devices, how fast it would be, and what would help."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.show import json_option, print_json

FORMATS = ["float32", "bfloat16", "float16", "q8_0", "q4_1", "q4_0"]
PLAIN = ["float32", "bfloat16", "float16"]


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("topology", metavar="DEVICES")
@click.option("--target", metavar="SPEED", help="Tokens per second to reach, like '5 tok/s'.")
@click.option(
    "--format",
    "weights",
    type=click.Choice(FORMATS),
    help="The format of all weights [default: the fastest that fits].",
)
@click.option(
    "--kv-format", type=click.Choice(PLAIN), default="float32", show_default=True, help="Format of the KV caches."
)
@click.option(
    "--wire-format", type=click.Choice(PLAIN), default="float32", show_default=True, help="Format of messages."
)
@click.option(
    "--context", type=int, help="Positions for which caches have room [default: all of the model's, at most 8192]."
)
@click.option("--prompt", type=int, help="Tokens of the prompt [default: 128].")
@click.option("--reserve", metavar="SIZE", help="Memory that the system of each board keeps [default: 102.4 MiB].")
@click.option("--link", metavar="RATE", help="The rate of each board's link, if boards are given [default: 1 Gbit/s].")
@json_option
def command(
    model: str, topology: str, target: str | None, weights: str | None, kv_format: str, wire_format: str,
    context: int | None, prompt: int | None, reserve: str | None, link: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Predict whether a model fits on devices, in which formats, how fast it would be, and what would help.

    The model is a preset, a folder with a config.json, that file, or a GGUF file. The devices are a topology (a file
    or a name), or boards of the catalogue in a star.

    Example: testbed plan llama-3-8b '4 x raspberry-pi-5 8GB' --target '5 tok/s'
    """
    from testbed.cli.plan_table import show_plan
    from testbed.planning.plan import plan
    from testbed.running.check import NothingFits
    from testbed.units import parse_bytes, parse_speed
    from testbed.validation.assumptions import DEFAULT

    found = plan(
        Path(model), topology, target=None if target is None else parse_speed(target), format=weights,
        kv_format=kv_format, wire_format=wire_format, context=context, prompt=prompt, link=link,
        reserve_bytes=DEFAULT.reserve_bytes if reserve is None else parse_bytes(reserve),
    )  # fmt: skip
    if as_json:
        print_json(found)
    elif found["fits"]:
        show_plan(found)
    if not found["fits"]:
        raise NothingFits(f"{found['model']} does not fit on {found['topology']}: {found['why']}")
