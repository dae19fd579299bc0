"""Carrying out the runs of a sweep or a comparison: in processes of this host, or on a Dask cluster of the user.

A worker carries out one run at a time and returns the run's row. A machine takes one emulated run at a time; on
a cluster, the resource `emulation` stands for that. If a worker dies, another one takes over its run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from testbed.emulation.host_lock import WAITING
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.runlog.comparison import infeasible_row
from testbed.running.backends import find_backend
from testbed.running.carry_out import carry_out
from testbed.running.dask_cluster import call_on_cluster, remarks_on
from testbed.running.many_runs import compile_policies
from testbed.running.remarks import Tell, tell_log, tell_nobody
from testbed.running.request import RunRequest
from testbed.running.sweep_file import SweptRun
from testbed.running.sweep_folder import SweepFolder, finished_in
from testbed.running.worker_pool import ATTEMPTS, WorkersDied, call_in_pool


def refuse_dashboard_alone(dashboard: bool, scheduler: str | None) -> None:
    """Raise ConfigError for a dashboard that nobody has."""
    if dashboard and scheduler is None:
        raise ConfigError("--dashboard is that of a Dask cluster, so it needs --scheduler")


def tell_of_cluster(scheduler: str, dashboard: bool, emulated: bool, tell: Tell) -> None:
    """Say what is to be said of a cluster before the first run; `emulated`: some are. Raises as `call_on_cluster`."""
    for remark in remarks_on(scheduler, emulated, dashboard):
        tell(remark)


def carry_out_runs(
    runs: Sequence[SweptRun],
    kept: SweepFolder,
    scheduler: str | None,
    done: Callable[[SweptRun, dict[str, Any]], None],
    **options: Any,
) -> None:
    """Carry out every run, in any order; `done` is called as each ends. Raises if one could not be carried out.

    The options are those of `RunRequest` beside `experiment`, `backend` and `out`.
    """
    calls = [(run.experiment.to_dict(), run.backend, str(kept.runs_folder(run.key).resolve()), options) for run in runs]
    emulated = {number for number, run in enumerate(runs) if find_backend(run.backend).emulated}
    try:
        if scheduler is None:
            compile_policies(run.experiment for number, run in enumerate(runs) if number not in emulated)
            ends = call_in_pool(carry_out_one, calls, emulated)
        else:
            ends = call_on_cluster(carry_out_one, calls, [f"run-{run.key}" for run in runs], emulated, scheduler)
        with closing(ends) as ended:
            for number, row in ended:
                done(runs[number], row)
    except WorkersDied as error:
        run = runs[error.args[0]]
        raise RunFailed(
            f"{ATTEMPTS} workers died under the run {run.key} ({run.experiment.policy}, seed {run.experiment.seed}); "
            "the finished ones are kept"
        ) from error


def carry_out_one(experiment: dict[str, Any], backend: str, folder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out one run, on a worker, and return its row. An error of this run alone is a row with that error.

    If a worker dies before its row was fetched, another one is asked again; it finds the finished run and returns it.
    """
    found = finished_in(Path(folder))
    if found is not None:
        return found
    loaded = Experiment.from_dict(experiment, experiment["name"])
    try:
        if not find_backend(backend).emulated:
            return carry_out(RunRequest(loaded, backend, Path(folder), **options), tell_nobody)
        return _emulate(RunRequest(loaded, backend, Path(folder), **options))
    except EnvironmentLacks:
        raise
    except TestbedError as error:
        row = infeasible_row(loaded.policy, backend, loaded.name, loaded.seed, str(error))
        return row | {"error_kind": type(error).__name__}


def _emulate(request: RunRequest) -> dict[str, Any]:
    """Carry out an emulated run as a process of its own, which dies with this worker.

    A worker of Dask calls this in a thread, and only the main thread of a process can start a capsule.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    file = request.out / "experiment.yaml"
    file.write_text(json.dumps(request.experiment.to_dict()), encoding="utf-8")  # JSON is YAML
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "testbed", "replay", str(file)]
    command += ["--backend", request.backend, "--out", str(request.out), "--accept-unfaithful", "--json"]
    command += ["--calibrate", request.calibrate, *(["--share-host"] if request.share_host else [])]
    command += ["--verify"] if request.verify else []
    said = ""
    with (
        tempfile.TemporaryFile("w+") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True) as run,
    ):
        try:
            for line in run.stderr or ():
                said = line.strip().removeprefix("Error: ")
                if said.startswith(WAITING):  # it may wait for ever, because any user can hold the host's lock
                    tell_log(said)
            code = run.wait()
        except KeyboardInterrupt:
            run.terminate()
            run.wait()
            raise
        out.seek(0)
        told = out.read()
    if code == EnvironmentLacks.exit_code:
        raise EnvironmentLacks(said)
    if code == ConfigError.exit_code:
        raise ConfigError(said)
    if not told.strip():
        raise RunFailed(said or f"the run ended with code {code}")
    row: dict[str, Any] = json.loads(told)
    return row
