"""`testbed plot`: the figures of runs."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.show import echo, json_option, print_json


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("figures"),
    show_default=True,
    help="Folder for the figures.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(["png", "pdf", "svg"]),
    multiple=True,
    default=("png",),
    show_default=True,
    help="File format; may be given more than once.",
)
@json_option
def command(runs: tuple[Path, ...], out: Path, formats: tuple[str, ...], as_json: bool) -> None:
    """Draw the figures of one or more runs and print where they are.

    RUN is a run's folder or a folder of runs. Runs that share policy, experiment, backend and seed are numbered;
    standard error then says which number is which folder.

    Example: testbed plot runs/demo --out figures --format pdf
    """
    from testbed.analysis import load_many
    from testbed.analysis.plots import run_names, save_all

    loaded = load_many(runs)
    paths = [str(path) for path in save_all(loaded, out, list(dict.fromkeys(formats)))]
    for run, name in zip(loaded, run_names(loaded), strict=True):
        if "#" in name:
            echo(f"{name}: {run.folder}", err=True)
    if as_json:
        print_json({"figures": paths})
    else:
        echo("\n".join(paths))
