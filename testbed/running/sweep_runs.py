"""The runs of a sweep: in local worker processes, where nothing listens, or on the Dask cluster that the user named.

A worker carries out one run at a time; what it returns is the run's row. The machine's one place for an emulated run is
on a cluster the resource `emulation`. The runs of a worker that died go to another.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from testbed.cli.replay import say
from testbed.emulation.host_lock import WAITING
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed, TestbedError
from testbed.experiment.schema import Experiment
from testbed.runlog.comparison import infeasible_row
from testbed.running.batch import compile_policies
from testbed.running.launch import Request, carry_out
from testbed.running.side_by_side import WorkersDied, side_by_side
from testbed.running.sweep_folder import Kept, SweptRun, finished_in

EMULATION = "emulation"  # the Dask resource: a machine has one
ATTEMPTS = 3  # workers that may die under one run before it counts as the run's fault


def carry_out_runs(
    runs: Sequence[SweptRun],
    kept: Kept,
    scheduler: str | None,
    share_host: bool,
    done: Callable[[SweptRun, dict[str, Any]], None],
) -> None:
    """Carry out every run, in any order; `done` gets each as it ends. Raises when one could not be carried out."""
    calls = [
        (run.experiment.to_dict(), run.backend, str(kept.runs_folder(run.key).resolve()), share_host) for run in runs
    ]
    try:
        if scheduler is not None:
            for run, row in _on_cluster(runs, calls, scheduler):
                done(run, row)
            return
        compile_policies(run.experiment for run in runs if run.backend == "sim")
        emulated = {number for number, run in enumerate(runs) if run.backend != "sim"}
        for number, row in side_by_side(carry_out_one, calls, emulated, ATTEMPTS):
            done(runs[number], row)
    except WorkersDied as error:
        run = runs[error.args[0]]
        raise RunFailed(
            f"{ATTEMPTS} workers died under the run {run.key} ({run.experiment.policy}, seed {run.experiment.seed}); "
            "the finished ones are kept"
        ) from error


def carry_out_one(experiment: dict[str, Any], backend: str, folder: str, share_host: bool = False) -> dict[str, Any]:
    """One run, on a worker; returns its row. What is wrong with this run alone is a row with its error.

    It is asked again when a worker dies with a row that nobody had fetched; a run that is there is not made anew.
    """
    found = finished_in(Path(folder))
    if found is not None:
        return found
    loaded = Experiment.from_dict(experiment, experiment["name"])
    try:
        if backend == "sim":
            return carry_out(Request(loaded, "sim", Path(folder), progress=False), lambda message: None)
        return _emulate(loaded, backend, Path(folder), share_host)
    except EnvironmentLacks:
        raise
    except TestbedError as error:
        row = infeasible_row(loaded.policy, backend, loaded.name, loaded.seed, str(error))
        return row | {"error_kind": type(error).__name__}


def _emulate(experiment: Experiment, backend: str, folder: Path, share_host: bool) -> dict[str, Any]:
    """An emulated run in a process of its own, which must be the main thread's; it dies with this worker."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(experiment.to_dict()), encoding="utf-8")  # JSON is YAML
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "testbed", "replay", str(file)]
    command += ["--backend", backend, "--out", str(folder), "--accept-unfaithful", "--json"]
    command += ["--share-host"] if share_host else []
    said = ""
    with (
        tempfile.TemporaryFile("w+") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True) as run,
    ):
        try:
            for line in run.stderr or ():
                said = line.strip().removeprefix("Error: ")
                if said.startswith(WAITING):  # maybe for ever: any user can have the host's lock
                    say(said)
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


def _on_cluster(
    runs: Sequence[SweptRun], calls: Sequence[tuple[Any, ...]], scheduler: str
) -> Iterator[tuple[SweptRun, dict[str, Any]]]:
    """Each run and its row as it ends, carried out by the workers of the scheduler at that address."""
    from distributed import Client, KilledWorker, as_completed

    _quiet_dask()
    if re.fullmatch(r"(tcp|tls)://.+:\d+", scheduler) is None:
        raise ConfigError(f"--scheduler {scheduler}: no address of a scheduler, which is like tcp://10.0.0.1:8786")
    try:
        found = Client(scheduler, timeout="10s", set_as_default=False)
    except OSError as error:
        raise EnvironmentLacks(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from error
    with found as client:
        futures = {}
        for number, run in enumerate(runs):
            resources = {EMULATION: 1} if run.backend != "sim" else None
            key = f"run-{run.key}"
            future = client.submit(carry_out_one, *calls[number], key=key, pure=False, resources=resources)
            futures[future] = number
        for future in as_completed(list(futures), loop=client.loop):
            number = futures.pop(future)
            try:
                yield runs[number], future.result()
            except KilledWorker as error:
                raise WorkersDied(number) from error
            future.release()


def _quiet_dask() -> None:
    """Dask's own remarks are not a user's; what matters comes as an exception."""
    for name in ("distributed", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
