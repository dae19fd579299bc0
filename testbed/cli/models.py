"""`testbed models`: what models there are, what one of them asks of devices, and fetching one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from testbed.cli.model_table import show_list, show_model_table
from testbed.cli.show import echo, json_option, print_json
from testbed.units import format_bytes


@click.group()
def command() -> None:
    """List the presets, show what a model asks of devices, or fetch one from the Hugging Face hub.

    Example: testbed models show smollm2-135m
    """


@command.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List the presets: their dimensions, and the size of their weights in three formats.

    Example: testbed models list --json
    """
    from testbed.running.models import list_models

    rows = list_models()
    if as_json:
        print_json(rows)
        return
    show_list(rows)


@command.command("show")
@click.argument("model", metavar="NAME|FOLDER|FILE")
@click.option(
    "--length", type=int, help="Prompt and generated tokens [default: 512, or the model's context if that is shorter]."
)
@click.option(
    "--kv-format",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="The format of the KV caches.",
)
@json_option
def show_model(model: str, length: int | None, kv_format: str, as_json: bool) -> None:
    """Show the blocks of a preset, a folder with a config.json or a GGUF file, and how many boards can hold them.

    Example: testbed models show llama-3.2-1b --length 2048 --kv-format float16
    """
    from testbed.running.models import show_model

    shown = show_model(model, length=length, kv_format=kv_format)
    if as_json:
        print_json(shown)
        return
    show_model_table(shown)


@command.command("fetch")
@click.argument("repository", metavar="REPO")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the files [default: REPO's name]."
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Of files with weights, fetch only these: '*q8_0.gguf'.")
@json_option
def fetch_model(repository: str, out: Path | None, only: tuple[str, ...], as_json: bool) -> None:
    """Fetch a model from the Hugging Face hub: safetensors, GGUF files, configs and tokenizers, and nothing else.

    Example: testbed models fetch HuggingFaceTB/SmolLM2-360M-Instruct --out smollm2
    """
    from testbed.models.fetch import fetch_model

    fetched = fetch_model(repository, out, only)
    if as_json:
        print_json(asdict(fetched))
        return
    echo(f"{fetched.folder}: {len(fetched.files)} files, {format_bytes(fetched.bytes)}, of commit {fetched.commit}")
