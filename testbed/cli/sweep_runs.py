"""The runs of a sweep on Dask: local worker processes, or a cluster's.

A worker carries out one run at a time; what it returns is the run's row. The machine's one place for an emulated run is
the resource `emulation`. The scheduler gives the runs of a worker that died to another. Everything listens on the
loopback device only and leaves nothing behind.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from testbed.cli.batch import compile_policies
from testbed.cli.launch import Request, carry_out
from testbed.comparison import infeasible_row
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed, TestbedError
from testbed.experiment import Experiment
from testbed.sweep import Kept, SweptRun, finished_in

EMULATION = "emulation"  # the Dask resource: a machine has one
LOOPBACK = "127.0.0.1"
ATTEMPTS = 3  # workers that may die under one run before it counts as the run's fault


def carry_out_runs(
    runs: Sequence[SweptRun], kept: Kept, scheduler: str | None, done: Callable[[SweptRun, dict[str, Any]], None]
) -> None:
    """Carry out every run, in any order; `done` gets each as it ends. Raises when one could not be carried out."""
    from distributed import KilledWorker, as_completed

    _quiet_dask()
    with _client(runs, scheduler) as client:
        futures = {}
        for run in runs:
            resources = {EMULATION: 1} if run.backend != "sim" else None
            call = (run.experiment.to_dict(), run.backend, str(kept.runs_folder(run.key).resolve()))
            future = client.submit(carry_out_one, *call, key=f"run-{run.key}", pure=False, resources=resources)
            futures[future] = run
        for future in as_completed(list(futures), loop=client.loop):
            run = futures.pop(future)
            try:
                done(run, future.result())
            except KilledWorker as error:
                which = f"{run.key} ({run.experiment.policy}, seed {run.experiment.seed})"
                raise RunFailed(
                    f"{ATTEMPTS} workers died under the run {which}; the finished ones are kept"
                ) from error
            future.release()


def carry_out_one(experiment: dict[str, Any], backend: str, folder: str) -> dict[str, Any]:
    """One run, on a Dask worker; returns its row. What is wrong with this run alone is a row with its error.

    Dask asks again when a worker dies with a row that nobody had fetched; a run that is there is not made anew.
    """
    found = finished_in(Path(folder))
    if found is not None:
        return found
    loaded = Experiment.from_dict(experiment, experiment["name"])
    try:
        if backend == "sim":
            return carry_out(Request(loaded, "sim", Path(folder), progress=False), lambda message: None)
        return _emulate(loaded, backend, Path(folder))
    except EnvironmentLacks:
        raise
    except TestbedError as error:
        row = infeasible_row(loaded.policy, backend, loaded.name, loaded.seed, str(error))
        return row | {"error_kind": type(error).__name__}


def _emulate(experiment: Experiment, backend: str, folder: Path) -> dict[str, Any]:
    """An emulated run in a process of its own, which must be the main thread's; it dies with this worker."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "experiment.yaml"
    file.write_text(json.dumps(experiment.to_dict()), encoding="utf-8")  # JSON is YAML
    command = ["setpriv", "--pdeathsig", "INT", sys.executable, "-m", "testbed", "replay", str(file)]
    command += ["--backend", backend, "--out", str(folder), "--accept-unfaithful", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_hear_interrupts)
    said = ended.stderr.strip().rpartition("\n")[2].removeprefix("Error: ")
    if ended.returncode == EnvironmentLacks.exit_code:
        raise EnvironmentLacks(said)
    if ended.returncode == ConfigError.exit_code:
        raise ConfigError(said)
    if not ended.stdout.strip():
        raise RunFailed(said or f"the run ended with code {ended.returncode}")
    row: dict[str, Any] = json.loads(ended.stdout)
    return row


@contextmanager
def _client(runs: Sequence[SweptRun], scheduler: str | None) -> Iterator[Any]:
    """A client of the scheduler at that address, or of local workers, one for each core, that end with it."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    if scheduler is not None:
        if re.fullmatch(r"(tcp|tls)://.+:\d+", scheduler) is None:
            raise ConfigError(f"--scheduler {scheduler}: no address of a scheduler, which is like tcp://10.0.0.1:8786")
        try:
            found = Client(scheduler, timeout="10s", set_as_default=False)
        except OSError as error:
            raise EnvironmentLacks(f"--scheduler {scheduler}: no Dask scheduler answers there: {error}") from error
        with found as client:
            yield client
        return
    compile_policies(run.experiment for run in runs if run.backend == "sim")
    count = max(1, min(os.cpu_count() or 1, len(runs)))
    listening = {"host": LOOPBACK, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"}
    with tempfile.TemporaryDirectory(prefix="headroom-sweep-") as scratch:
        worker = {"nthreads": 1, "memory_limit": 0, "local_directory": scratch, "silence_logs": logging.CRITICAL}
        workers = {
            number: {"cls": Nanny, "options": listening | worker | ({} if number else {"resources": {EMULATION: 1}})}
            for number in range(count)
        }
        boss = {"cls": Scheduler, "options": listening | {"port": 0, "allowed_failures": ATTEMPTS - 1}}
        with _deaf_to_interrupts():
            cluster = SpecCluster(workers, boss, silence_logs=logging.CRITICAL)
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started in here, threads and by them processes, never gets a Ctrl-C: it is ours to end them."""
    resource_tracker.ensure_running()  # else the first process started starts it, and that thread hears again
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _hear_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _quiet_dask() -> None:
    """Dask's own remarks are not a user's; what matters comes as an exception."""
    for name in ("distributed", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
