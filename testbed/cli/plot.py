"""`testbed plot`: the figures of runs."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import ALL_RUNS
from testbed.cli.show import echo, json_option, print_json
from testbed.progress import progress_bar

MOST_EACH = 8  # runs; the figures of each of 80 runs with 25 devices take minutes, and nobody looks at 240 images


@click.command()
@ALL_RUNS
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
@click.option("--each", is_flag=True, help=f"Draw the figures of each run even of more than {MOST_EACH} runs.")
@json_option
def command(runs: tuple[Path, ...], out: Path, formats: tuple[str, ...], each: bool, as_json: bool) -> None:
    """Draw the figures of one or more runs and print where they are.

    RUN is a run's folder or a folder of runs. Of many runs, only the figures that compare them are drawn. Runs that
    share policy, experiment, backend and seed are numbered; standard error then says which number is which folder.

    Example: testbed plot runs/demo --out figures --format pdf
    """
    from testbed.analysis import load, run_folders
    from testbed.analysis.plots import TABLES_OF_ALL, count_figures, run_names, save_all

    folders = run_folders(runs)
    each = each or len(folders) <= MOST_EACH
    figures = count_figures(len(folders), each)
    loaded = []
    with progress_bar(not as_json, len(folders) + figures, "plot") as done:
        for folder in folders:
            loaded.append(load(folder) if each else load(folder, TABLES_OF_ALL))
            done(len(loaded))
        drawn = save_all(loaded, out, list(dict.fromkeys(formats)), each, lambda figure: done(len(loaded) + figure))
    paths = [str(path) for path in drawn]
    for run, name in zip(loaded, run_names(loaded), strict=True) if each else ():
        if "#" in name:
            echo(f"{name}: {run.folder}", err=True)
    if not each:
        echo(f"These figures compare the {len(folders)} runs; --each draws those of each run too.", err=True)
    if as_json:
        print_json({"figures": paths})
    else:
        echo("\n".join(paths))
