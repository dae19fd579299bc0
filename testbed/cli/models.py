"""`testbed models`: fetching a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from testbed.cli.show import echo, json_option, print_json
from testbed.units import format_bytes


@click.group()
def command() -> None:
    """Fetch a model from the Hugging Face hub.

    Example: testbed models fetch HuggingFaceTB/SmolLM2-360M-Instruct
    """


@command.command("fetch")
@click.argument("repository", metavar="REPO")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the files [REPO's name].")
@click.option("--only", multiple=True, metavar="PATTERN", help="Of files with weights, only these: '*q8_0.gguf'.")
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
