"""`testbed sweep`: one experiment over values of any key, with policies and seeds, on every core or a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.replay import OUT, SHARE, say
from testbed.cli.show import echo, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from testbed.running.sweep_folder import Kept, Sweep, SweptRun


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="A Dask scheduler [default: worker processes here].")
@SHARE
@OUT
@click.option("--json", "as_json", is_flag=True, help="Print rows and table as JSON.")
def command(file: Path, scheduler: str | None, share_host: bool, out: Path, as_json: bool) -> None:
    """Carry out every run of the sweep FILE that has not been yet, and show a table.

    FILE has the keys experiment, policies, seeds (how many, or a list), backend (default: sim) and over, a mapping of
    the experiment's keys to lists of values; every combination is run. Runs are kept under --out in a folder of the
    sweep's name; a repeated sweep carries out only what is missing or has changed. `sweep.parquet` there has a row for
    each run.

    Example: testbed sweep experiments/sweep-delay.yaml
    """
    from testbed.running.sweep_folder import Kept, Sweep

    sweep = Sweep.load(file)
    runs = sweep.runs()
    kept = Kept(out / sweep.name)
    impossible = _impossible([run for run in runs if kept.find(run.key) is None])  # before a folder is made
    with kept.alone():
        _carry_out(sweep, runs, impossible, kept, scheduler, share_host, as_json)


def _carry_out(
    sweep: Sweep,
    runs: list[SweptRun],
    impossible: dict[str, dict[str, Any]],
    kept: Kept,
    scheduler: str | None,
    share_host: bool,
    as_json: bool,
) -> None:
    """What is missing, then the table and the Parquet file of all."""
    from testbed.runlog.comparison import write_tidy
    from testbed.running import sweep_runs
    from testbed.running.sweep_folder import table, tidy_rows

    rows = {run.key: row for run in runs if (row := kept.find(run.key)) is not None}
    already = len(rows)
    rows = impossible | rows
    missing = list({run.key: run for run in runs if run.key not in rows}.values())
    if already and not as_json:
        say(f"{already} of {len(runs)} runs are there already, from before.")
    with progress_bar(not as_json and sys.stderr.isatty(), len(runs), sweep.name) as told:

        def done(run: Any, row: dict[str, Any]) -> None:
            kept.put(run.key, row)
            rows[run.key] = row
            told(len(rows))

        told(len(rows))
        try:
            if missing:
                sweep_runs.carry_out_runs(missing, kept, scheduler, share_host, done)
        except KeyboardInterrupt:
            say(f"{len(rows)} of {len(runs)} runs are kept; the same command goes on from there.")
            raise
    ordered = [rows[run.key] for run in runs]
    parquet = kept.folder / "sweep.parquet"
    write_tidy(tidy_rows(runs, ordered), parquet)
    summed = table(runs, ordered)
    if as_json:
        told_rows = [{"over": dict(run.values)} | row for run, row in zip(runs, ordered, strict=True)]
        print_json({"rows": told_rows, "table": summed})
        return
    _show(summed, list(sweep.over), len(runs) // max(1, len(summed)))
    echo(f"Every run: {parquet}")


def _impossible(runs: list[Any]) -> dict[str, dict[str, Any]]:
    """Key -> row of the runs whose instance no placement can fit. Raises for what is wrong in another way.

    Warns of runs where that may come to be so later.
    """
    from testbed.runlog.comparison import infeasible_row
    from testbed.running import launch
    from testbed.running.lasting import may_not_last, summed_up
    from testbed.strict_yaml import shown

    found, warned = {}, {}
    for run in runs:
        try:
            prompt = launch.check_experiment(run.experiment, computed=run.backend != "sim")
            ends = may_not_last(run.experiment, len(prompt))
            if ends:
                one = run.experiment
                warned[f"{one.policy}, seed {one.seed}, over {shown(dict(run.values))}"] = ends
        except launch.NothingFits as error:
            one = run.experiment
            found[run.key] = infeasible_row(one.policy, run.backend, one.name, one.seed, str(error))
    if warned:
        say(f"Warning: {summed_up(warned, len(runs))}.")
    return found


def _show(summed: list[dict[str, Any]], keys: list[str], instances: int) -> None:
    from testbed.cli.compare import TABLE_OF_POLICIES, policy_row

    lines = [line["over"] | policy_row(line, instances) for line in summed]
    print_table({key: key for key in keys} | TABLE_OF_POLICIES, [_texts(line, keys) for line in lines])


def _texts(line: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """Swept values that are mappings or lists as text."""
    return line | {key: str(line[key]) for key in keys if isinstance(line[key], dict | list)}
