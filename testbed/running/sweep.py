"""One experiment over values of its keys, with policies and seeds: what `testbed sweep` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.progress import progress_bar
from testbed.runlog.comparison import infeasible_row, per_policy, tidy, write_tidy
from testbed.running.backends import find_backend
from testbed.running.check import NothingFits, check_experiment
from testbed.running.comparison import Comparison, plain
from testbed.running.memory_over_time import shortage_ahead, told_of_many
from testbed.running.remarks import Tell, tell_log
from testbed.running.request import RunRequest
from testbed.running.sweep_file import Sweep, SweptRun
from testbed.running.sweep_folder import SweepFolder
from testbed.running.sweep_workers import carry_out_runs, refuse_dashboard_alone, tell_of_cluster
from testbed.strict_yaml import shown

Rows = dict[str, dict[str, Any]]  # key of a run -> its row


def sweep(
    file: str | Path,
    *,
    scheduler: str | None = None,
    dashboard: bool = False,
    share_host: bool = False,
    out: str | Path = "runs",
    progress: bool = False,
    tell: Tell = tell_log,
) -> Comparison:
    """Carry out every run of a sweep file that has not been carried out yet, and return all of them side by side.

    Runs are kept under `out` in a folder of the sweep's name, with `sweep.parquet`, which has a row for each run. A run
    that is infeasible or fails is a row with its error, and raises nothing. The next call continues an
    interrupted sweep.

    Args:
        file: A YAML file with the keys `experiment`, `policies`, `seeds`, `backend` and `over`.
        scheduler: The address of a Dask scheduler, like `tcp://10.0.0.1:8786`; by default processes of this host.
        dashboard: Print the address of the scheduler's dashboard.
        share_host: Do not wait until other emulated runs on this host have ended.
        out: The folder in which the sweep's folder is made.
        progress: Say how many runs were there before, and draw a bar on standard error if that is a terminal.
        tell: Is called with each remark, a sentence; by default they go to the log `testbed`.

    Raises:
        ConfigError: The file is wrong, or another sweep is at work in the folder.
        EnvironmentLacks: This machine lacks what a backend needs, or no scheduler answers.
        RunFailed: Several workers in turn died under the same run.

    Example:
        >>> testbed.sweep("experiments/sweep-delay.yaml").table
    """
    refuse_dashboard_alone(dashboard, scheduler)
    planned = Sweep.load(Path(file))
    runs = planned.runs()
    folder = SweepFolder(Path(out) / planned.name)
    for run in runs:
        find_backend(run.backend).refuse(RunRequest(run.experiment, run.backend, folder.folder))
    # Every run is checked before a folder is made.
    impossible = _impossible_runs([run for run in runs if folder.find(run.key) is None], tell)
    with folder.alone():
        rows = {run.key: row for run in runs if (row := folder.find(run.key)) is not None}
        if rows and progress:
            tell(f"{len(rows)} of {len(runs)} runs are there already, from before.")
        rows = impossible | rows
        missing = list({run.key: run for run in runs if run.key not in rows}.values())
        if missing and scheduler is not None:
            tell_of_cluster(scheduler, dashboard, any(find_backend(run.backend).emulated for run in missing), tell)
        with progress_bar(progress, len(runs), planned.name) as told:

            def done(run: SweptRun, row: dict[str, Any]) -> None:
                folder.put(run.key, row)
                rows[run.key] = row
                told(len(rows))

            told(len(rows))
            try:
                if missing:
                    carry_out_runs(missing, folder, scheduler, done, share_host=share_host)
            except KeyboardInterrupt:
                tell(f"{len(rows)} of {len(runs)} runs are kept; the same command goes on from there.")
                raise
        parquet = folder.folder / "sweep.parquet"
        return _side_by_side(planned, runs, [rows[run.key] for run in runs], parquet)


def _side_by_side(planned: Sweep, runs: Sequence[SweptRun], rows: Sequence[dict[str, Any]], file: Path) -> Comparison:
    """Write the Parquet file of all runs, the swept keys as its first columns, and sum up each policy."""
    write_tidy(
        [
            {key: plain(value) for key, value in run.values.items()} | tidy(row)
            for run, row in zip(runs, rows, strict=True)
        ],
        file,
    )
    groups: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(str(plain(dict(run.values))), []).append(number)
    lines = [
        {"over": dict(runs[numbers[0]].values)} | line
        for numbers in groups.values()
        for line in per_policy([rows[number] for number in numbers])
    ]
    summaries = [{"over": dict(run.values)} | row for run, row in zip(runs, rows, strict=True)]
    return Comparison(summaries, lines, file, len(runs) // max(1, len(lines)), list(planned.over))


def _impossible_runs(runs: Sequence[SweptRun], tell: Tell) -> Rows:
    """Return the row of each run whose instance no placement can fit, by the run's key.

    Raises ConfigError for anything else that is wrong. `tell` hears of runs for which it may become so later.
    """
    found: Rows = {}
    warned: dict[str, str] = {}
    for run in runs:
        one = run.experiment
        try:
            prompt = check_experiment(one, computed=find_backend(run.backend).emulated)
            why = shortage_ahead(one, len(prompt))
            if why:
                warned[f"{one.policy}, seed {one.seed}, over {shown(dict(run.values))}"] = why
        except NothingFits as error:
            found[run.key] = infeasible_row(one.policy, run.backend, one.name, one.seed, str(error))
    if warned:
        tell(f"Warning: {told_of_many(warned, len(runs))}.")
    return found
