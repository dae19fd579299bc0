"""Many runs, one after another or, for simulated ones, one on each core.

An emulated run has the machine to itself and a process of its own; a simulated one shares a worker process with those
before it, so that torch-free start-up is paid once for each core and not for each run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from testbed.emulation.own_tempdir import use_own_tempdir
from testbed.errors import RunFailed
from testbed.experiment.schema import Experiment
from testbed.placement.policies import POLICIES, make_policy
from testbed.running.launch import Request, Say, carry_out

Numbered = tuple[int, Request]
Done = Callable[[int, dict[str, Any]], None]  # told the request's number and its summary


def carry_out_all(requests: Sequence[Request], say: Say, done: Done) -> list[dict[str, Any]]:
    """Every run's summary, in the order of the requests; `done` hears of each as it ends."""
    simulated = [number for number, request in enumerate(requests) if request.backend == "sim"]
    summaries: dict[int, dict[str, Any]] = {}
    workers = min(len(simulated), os.cpu_count() or 1)
    if workers > 1:
        compile_policies(requests[number].experiment for number in simulated)
        for number, summary in _side_by_side([(number, requests[number]) for number in simulated], workers):
            summaries[number] = summary
            done(number, summary)
    for number, request in enumerate(requests):
        if number not in summaries:
            if request.backend != "sim":
                one = request.experiment
                say(f"[{number + 1}/{len(requests)}] {one.policy}, seed {one.seed}, on {request.backend} …")
            summaries[number] = carry_out(request, say)
            done(number, summaries[number])
    return [summaries[number] for number in range(len(requests))]


def compile_policies(experiments: Iterable[Experiment]) -> None:
    """Let known policies compile what they search with once, here; else every worker process would at the same time."""
    for one in experiments:
        if one.policy in POLICIES:
            make_policy(one.policy, one.policy_options, one.placement).reset(one.seed)


def _side_by_side(numbered: list[Numbered], workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and summary of each run as it ends. The processes end at once when something goes wrong, or at Ctrl-C."""
    use_own_tempdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["testbed.running.simulated"])
    with context.Pool(workers, _leave_interrupts_to_the_parent) as pool:  # whose end terminates them
        started = {child.pid for child in multiprocessing.active_children()}
        ended = pool.imap_unordered(_quiet, numbered)
        for _ in numbered:
            while True:
                try:
                    found = ended.next(timeout=1.0)
                except multiprocessing.TimeoutError:
                    if started - {child.pid for child in multiprocessing.active_children()}:
                        raise RunFailed("a process that carried out simulated runs was killed; start again") from None
                    continue
                break
            yield found


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _quiet(numbered: Numbered) -> tuple[int, dict[str, Any]]:
    number, request = numbered
    return number, carry_out(request, lambda message: None)
