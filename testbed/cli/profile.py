"""`testbed profile`: measures this machine with an engine, for the device catalogue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.show import echo, json_option, print_json, say
from testbed.errors import ConfigError

if TYPE_CHECKING:
    from testbed.shape import ModelShape

ENGINES = ("headroom", "llama.cpp")


@click.command()
@click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0], show_default=True, help="The engine.")
@click.option(
    "--model",
    default="smollm2-135m",
    show_default=True,
    help="A preset or a checkpoint whose layer sizes are used.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of llama.cpp [default: one for each core].")
@click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A folder of the storage to measure [default: this one].",
)
@click.option("--peer", metavar="ADDRESS", help="Also measure the link to a machine that runs --serve.")
@click.option("--serve", metavar="ADDRESS", help="Only answer the messages of --peer, at this address, until Ctrl-C.")
@json_option
def command(
    engine: str, model: str, threads: int | None, storage: Path, peer: str | None, serve: str | None, as_json: bool
) -> None:
    """Measure how fast this machine runs an engine, and print its entry for the catalogue. Takes a minute or two.

    Rates belong to a machine and an engine. Profiling needs 1 GB of memory and an idle machine, but neither root nor
    Mininet. Each value has its spread over the rounds.

    Example: testbed profile --engine llama.cpp >> my.yaml
    """
    from testbed.profiling.messages import Echo, parse_address

    if serve is not None:
        echoing = Echo(*parse_address(serve, "--serve"))
        say(f"Answering at {echoing.address[0]}:{echoing.address[1]}; end with Ctrl-C.")
        echoing.serve()
        return
    from testbed.profiling.computing import Probes
    from testbed.profiling.decoders import Engine, HeadroomEngine
    from testbed.profiling.entry import entry_text, link_entry
    from testbed.profiling.llama_cpp import LlamaCppEngine
    from testbed.profiling.numbers import WIDE
    from testbed.profiling.profile import profile

    if engine == "headroom" and threads not in (None, 1):
        raise ConfigError(f"--threads is {threads}, but the engine headroom computes in one thread on each device")
    if not storage.is_dir():
        raise ConfigError(f"--storage is {storage}, which is no folder")
    asked = parse_address(peer, "--peer") if peer is not None else None
    cores = len(os.sched_getaffinity(0))
    chosen: Engine = HeadroomEngine() if engine == "headroom" else LlamaCppEngine(threads or cores)
    found = profile(chosen, Probes.like(_shape(model)), storage, asked, say)
    if unsteady := found.unsteady():
        say(
            f"Warning: the rounds differ by more than a factor of {WIDE:g} in {', '.join(unsteady)}: this "
            "machine was busy; profile it again when nothing else runs."
        )
    link = link_entry(found)
    if as_json:
        print_json(found.to_dict() | {"link_entry": link})
        return
    echo(entry_text(found).rstrip())
    if link is not None:
        echo(f"# The link to {peer}: {{rate: {link['rate']}, delay: {link['delay']}}}")


def _shape(model: str) -> ModelShape:
    """The shape of a preset, or of a checkpoint."""
    from testbed.decoder.checkpoint import read_shape
    from testbed.models.presets import PRESETS

    return PRESETS[model] if model in PRESETS else read_shape(Path(model))
