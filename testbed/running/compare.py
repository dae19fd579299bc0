"""One experiment, several policies, seeds and backends, side by side: what `testbed compare` does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.controller.startup_calibration import Effort
from testbed.errors import ConfigError
from testbed.experiment.schema import Experiment
from testbed.placement.policies import shared_out
from testbed.progress import progress_bar
from testbed.runlog.comparison import EXACT, Least, infeasible_row, per_policy, tidy, write_tidy
from testbed.runlog.folder import file_part
from testbed.running.backends import choose_backend, find_backend
from testbed.running.carry_out import failure
from testbed.running.check import NothingFits, check_experiment
from testbed.running.comparison import Comparison
from testbed.running.late_rows import rows_that_wait
from testbed.running.many_runs import Done, carry_out_all
from testbed.running.memory_over_time import shortage_ahead, told_of_many
from testbed.running.remarks import Tell, tell_log
from testbed.running.request import Overrides, RunRequest, load_experiment
from testbed.running.sweep_file import SweptRun, run_key
from testbed.running.sweep_folder import SweepFolder
from testbed.running.sweep_workers import carry_out_runs, refuse_dashboard_alone, tell_of_cluster


def compare(
    experiment: str | Path | Experiment,
    policies: str | Sequence[str],
    *,
    seeds: int = 1,
    backend: str | Sequence[str] | None = None,
    tokens: int | None = None,
    overrides: Overrides = (),
    out: str | Path = "runs",
    verify: bool = False,
    share_host: bool = False,
    calibrate: Effort = "quick",
    scheduler: str | None = None,
    dashboard: bool = False,
    progress: bool = False,
    tell: Tell = tell_log,
) -> Comparison:
    """Run an experiment with each policy, seed and backend, and return them side by side.

    Means are over the instances that every policy finished. Runs that are infeasible, run out of memory or fail are
    counted, and raise nothing. Simulated runs take place on all cores at once, emulated ones in turn.

    Args:
        experiment: A YAML file, or an `Experiment`; of the latter, seeds draw no new topology and traces.
        policies: The policies to compare: names, or `file.py:Class`.
        seeds: Runs per policy; their seeds count up from the experiment's.
        backend: One or several of `mininet`, `local` and `sim`; by default mininet where it can run, else local.
        tokens: How many tokens to generate, in place of the experiment's number.
        overrides: Other keys of the experiment: `key=value` texts, or a mapping from dotted keys to values.
        out: The folder in which the runs' folders and the Parquet file are made.
        verify: Compare every token's logits with those of the single-process reference, bit for bit.
        share_host: Do not wait until other emulated runs on this host have ended.
        calibrate: How thoroughly links and host are measured before token 0: `off`, `quick` or `full`.
        scheduler: The address of a Dask scheduler, like `tcp://10.0.0.1:8786`; by default the runs take place here.
        dashboard: Tell the address of the scheduler's dashboard.
        progress: Announce emulated runs, and draw bars on standard error if that is a terminal.
        tell: Is called with each remark, a sentence; by default they go to the log `testbed`.

    Raises:
        ConfigError: Something is wrong for every run, or no placement can fit any instance.
        EnvironmentLacks: This machine lacks what a backend needs.
        RunFailed: The logits of a run differ from the reference.

    Example:
        >>> table = testbed.compare(
        ...     "experiments/small-scale.yaml", policies=["greedy", "headroom"], seeds=20, backend="sim"
        ... )
        >>> table.table[["policy", "mean_token_ms", "ci95_token_ms"]]
    """
    found = compare_all(
        experiment, policies, seeds=seeds, backend=backend, tokens=tokens, overrides=overrides, out=out, verify=verify,
        share_host=share_host, calibrate=calibrate, scheduler=scheduler, dashboard=dashboard, progress=progress,
        tell=tell,
    )  # fmt: skip
    refuse_different_logits(found)
    return found


def compare_all(
    experiment: str | Path | Experiment,
    policies: str | Sequence[str],
    *,
    seeds: int,
    backend: str | Sequence[str] | None,
    tokens: int | None,
    overrides: Overrides,
    out: str | Path,
    scheduler: str | None,
    dashboard: bool,
    progress: bool,
    tell: Tell,
    **options: Any,
) -> Comparison:
    """Compare as `compare` does, but also return runs whose logits differ; `options` are those of `RunRequest`."""
    policies = [policies] if isinstance(policies, str) else list(policies)
    if not policies or seeds < 1:
        raise ConfigError(f"{len(policies)} policies with {seeds} seeds each: a comparison needs at least one of both")
    refuse_dashboard_alone(dashboard, scheduler)
    wanted = [backend] if backend is None or isinstance(backend, str) else list(backend)
    for kind, given in (("policy", policies), ("backend", wanted)):
        twice = next((one for number, one in enumerate(given) if one in given[:number]), None)
        if twice is not None:
            raise ConfigError(f"{kind} {twice} is given twice, but every run is made once; several seeds repeat it")
    chosen = list(dict.fromkeys(choose_backend(one, tell) for one in wanted or [None]))
    first = load_experiment(experiment, overrides, tokens=tokens)
    planned = [
        load_experiment(experiment, overrides, tokens=tokens, policy=policy, seed=first.seed + number).model_copy(
            update={"policy_options": own}
        )
        for policy, own in shared_out(policies, first.policy_options).items()
        for number in range(seeds)
    ]
    emulated = any(find_backend(name).emulated for name in chosen)
    # What a backend cannot carry out is said before anything is searched or announced.
    wishes = {
        (name, one.policy, one.seed): RunRequest(
            one, name, Path(out), progress=progress and find_backend(name).emulated, **options
        )
        for name in chosen
        for one in planned
    }
    for wish in wishes.values():
        find_backend(wish.backend).refuse(wish)
    impossible = _impossible_seeds(planned, emulated, tell)
    waiting = rows_that_wait(first)
    if waiting:
        tell(f"Note: {waiting}.")
    requests = [wish for wish in wishes.values() if wish.experiment.seed not in impossible]
    file = Path(out) / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{file_part(first.name)}-compare.parquet"
    if scheduler is not None:
        tell_of_cluster(scheduler, dashboard, emulated, tell)
    ended: list[int] = []
    # Emulated runs are announced one by one here and draw a bar each.
    with progress_bar(progress and not (emulated and scheduler is None), len(requests), "runs") as told:

        def done(number: int, summary: dict[str, Any]) -> None:
            ended.append(number)
            told(len(ended))

        if scheduler is None:
            carried = carry_out_all(requests, tell, done, announce=progress)
        else:
            carried = _carry_out_on(scheduler, requests, file.with_suffix(""), done, options)
    by_run = {
        (request.backend, request.experiment.policy, request.experiment.seed): row
        for request, row in zip(requests, carried, strict=True)
    }
    rows = [
        by_run.get((name, one.policy, one.seed))
        or infeasible_row(one.policy, name, one.name, one.seed, impossible[one.seed])
        for name in chosen
        for one in planned
    ]
    write_tidy([tidy(row) for row in rows], file)
    return Comparison(rows, per_policy(rows, _least_costs(planned, rows)), file, seeds)


def _carry_out_on(
    scheduler: str, requests: Sequence[RunRequest], folder: Path, done: Done, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Carry out every run on a Dask cluster, as those of a sweep, and return the summaries in this order."""
    keys = {run_key(one.experiment, one.backend): number for number, one in enumerate(requests)}
    runs = [SweptRun(key, {}, requests[number].experiment, requests[number].backend) for key, number in keys.items()]
    rows: dict[str, dict[str, Any]] = {}

    def ended(run: SweptRun, row: dict[str, Any]) -> None:
        rows[run.key] = row
        done(keys[run.key], row)

    carry_out_runs(runs, SweepFolder(folder), scheduler, ended, **options)
    return [rows[key] for key in keys]


def _least_costs(planned: Sequence[Experiment], rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, Least]]:
    """What tokens take at least in the simulated runs, by backend and seed, where `exact` is among the policies."""
    from testbed.running.yardstick import least_costs

    instances = {one.seed: one for one in planned}
    simulated = {row["backend"] for row in rows if not find_backend(row["backend"]).emulated}
    if EXACT not in {one.policy for one in planned}:
        return {}
    return {name: least_costs(instances, [row for row in rows if row["backend"] == name]) for name in simulated}


def refuse_different_logits(found: Comparison) -> None:
    """Raise RunFailed for the first run whose logits differ from the reference."""
    for row in found.summaries:
        if row.get("verified") == "different":
            failed = failure(row, accept_unfaithful=True)
            assert failed is not None
            raise failed


def _impossible_seeds(planned: Sequence[Experiment], computed: bool, tell: Tell) -> dict[int, str]:
    """Return why no placement can fit, by the seed of each instance for which that is so.

    Raises NothingFits if it is so for all of them, and ConfigError for anything else that is wrong. `tell` hears of
    instances for which it may become so later.
    """
    found: dict[int, str] = {}
    later: dict[int, str | None] = {}
    for one in planned:
        try:
            prompt = check_experiment(one, computed)
            if one.seed not in later:
                later[one.seed] = shortage_ahead(one, len(prompt))
        except NothingFits as error:
            found[one.seed] = str(error)
            if len(found) == len({other.seed for other in planned}):
                raise
    warned = {f"seed {seed}": why for seed, why in later.items() if why}
    if warned:
        tell(f"Warning: {told_of_many(warned, len(later) + len(found))}.")
    return found
