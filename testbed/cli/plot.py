"""`testbed plot`: the figures of runs."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.names import ALL_RUNS
from testbed.cli.show import echo, json_option, print_json
from testbed.errors import ConfigError
from testbed.progress import progress_bar

FORMATS = ("png", "pdf", "svg")
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
    type=click.Choice(FORMATS),
    multiple=True,
    default=("png",),
    show_default=True,
    help="File format; may be given more than once.",
)
@click.option(
    "--each/--no-each",
    default=None,
    help=f"Draw the figures of each run, too, or do not [default: of {MOST_EACH} runs at most].",
)
@click.option(
    "--figure",
    "only",
    metavar="NAME",
    multiple=True,
    help="Draw only figures of this name, such as token_latency; may be given more than once.",
)
@json_option
def command(
    runs: tuple[Path, ...], out: Path, formats: tuple[str, ...], each: bool | None, only: tuple[str, ...], as_json: bool
) -> None:
    """Draw the figures of one or more runs and print where they are.

    RUN is a run's folder or a folder of runs. For many runs, only the figures that compare them are drawn. Runs with
    the same policy, experiment, backend and seed are numbered; standard error says which number is which folder.

    Example: testbed plot runs/demo --out figures --format pdf
    """
    from testbed.analysis import load, run_folders, with_changes
    from testbed.analysis.plots import FIGURES, MOST_LINES, TABLES_OF_ALL, count_figures, run_names, save_all
    from testbed.strict_yaml import suggest

    if out.suffix[1:] in FORMATS:
        raise ConfigError(
            f"--out {out} is the folder for figures, not a file: say --format {out.suffix[1:]} for the kind"
        )
    folders = run_folders(runs)
    drawn_each = len(folders) <= MOST_EACH if each is None else each
    for unknown in set(only) - set(FIGURES):
        raise ConfigError(f"--figure {unknown}: no figure has that name{suggest(unknown, FIGURES)}")
    only = only or FIGURES
    figures = count_figures(len(folders), drawn_each, only)
    loaded = []
    with progress_bar(not as_json, len(folders) + figures, "plot") as done:
        for folder in folders:
            loaded.append(
                load(folder) if drawn_each else load(folder, TABLES_OF_ALL, events=len(folders) <= MOST_LINES)
            )
            done(len(loaded))
        if not drawn_each:
            loaded = with_changes(loaded)
        drawn = save_all(
            loaded, out, list(dict.fromkeys(formats)), drawn_each, lambda figure: done(len(loaded) + figure), only
        )
    paths = [str(path) for path in drawn]
    for run, name in zip(loaded, run_names(loaded), strict=True) if drawn_each else ():
        if "#" in name:
            echo(f"{name}: {run.folder}", err=True)
    if not drawn_each and each is None:
        echo(f"These figures compare the {len(folders)} runs; --each draws those of each run too.", err=True)
    if as_json:
        print_json({"figures": paths})
    else:
        echo("\n".join(paths))
