"""Many runs, one after another or, for simulated ones, one on each core.

An emulated run has the machine to itself and a process of its own; a simulated one shares a worker process with those
before it, so that torch-free start-up is paid once for each core and not for each run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from testbed.cli.launch import Request, Say, carry_out
from testbed.errors import RunFailed

Done = Callable[[int, dict[str, Any]], None]  # told the request's number and its summary


def carry_out_all(requests: Sequence[Request], say: Say, done: Done) -> list[dict[str, Any]]:
    """Every run's summary, in the order of the requests; `done` hears of each as it ends."""
    simulated = [number for number, request in enumerate(requests) if request.backend == "sim"]
    summaries: dict[int, dict[str, Any]] = {}
    workers = min(len(simulated), os.cpu_count() or 1)
    if workers > 1:
        with _pool(workers) as pool:
            futures = {pool.submit(_quiet, requests[number]): number for number in simulated}
            for future in as_completed(futures):
                number = futures[future]
                try:
                    summaries[number] = future.result()
                except BrokenProcessPool as error:
                    raise RunFailed("a process that carried out simulated runs was killed; start again") from error
                done(number, summaries[number])
    for number, request in enumerate(requests):
        if number not in summaries:
            if request.backend != "sim":
                one = request.experiment
                say(f"[{number + 1}/{len(requests)}] {one.policy}, seed {one.seed}, on {request.backend} …")
            summaries[number] = carry_out(request, say)
            done(number, summaries[number])
    return [summaries[number] for number in range(len(requests))]


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once when something goes wrong here, Ctrl-C included."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["testbed.cli.simulated"])
    pool = ProcessPoolExecutor(workers, context, initializer=_leave_interrupts_to_the_parent)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    pool.shutdown()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _quiet(request: Request) -> dict[str, Any]:
    return carry_out(request, lambda message: None)
