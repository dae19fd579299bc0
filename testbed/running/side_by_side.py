"""Calls carried out in worker processes that nobody but this process can speak to, and whose death costs one attempt.

They talk over inherited pipes: nothing listens anywhere, so that no other user can run code here. The standard
library's pool of processes breaks when one of them is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from testbed.emulation.own_tempdir import use_own_tempdir
from testbed.signals import interrupt_at_signals
from testbed.worker.parent_death import end_with_parent

PRELOAD = ["testbed.running.simulated"]
END_PATIENCE_S = 15.0  # for an emulated run to take down what it has made


class WorkersDied(Exception):
    """So many workers died under one call that it is the call's fault; `args[0]` is its number."""


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, function: Callable[..., Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.number = -1  # of the call that it carries out
        with _deaf_to_interrupts():
            context.set_forkserver_preload(PRELOAD)
            forkserver.ensure_running()
            self.process: ForkServerProcess = context.Process(target=_serve, args=(theirs, function), daemon=True)
            self.process.start()
        theirs.close()


def side_by_side(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], alone: Collection[int] = (), attempts: int = 3
) -> Iterator[tuple[int, Any]]:
    """Number and answer of every call as it ends, one worker for each core; of those in `alone` one at a time.

    A call whose worker died is tried again; raises WorkersDied after so many attempts, and what a call raised.
    """
    use_own_tempdir()
    waiting, tried = deque(range(len(calls))), [0] * len(calls)
    idle = [_Worker(function) for _ in range(max(1, min(os.cpu_count() or 1, len(calls))))]
    busy: list[_Worker] = []
    try:
        while waiting or busy:
            for worker in list(idle):
                taken = any(one.number in alone for one in busy)
                number = next((one for one in waiting if not (taken and one in alone)), None)
                if number is None:
                    break
                waiting.remove(number)
                worker.number = number
                idle.remove(worker)
                busy.append(worker)
                with suppress(OSError):  # it has died, as its pipe will say
                    worker.pipe.send(calls[number])
            ready = wait([worker.pipe for worker in busy])
            for worker in [one for one in busy if one.pipe in ready]:
                busy.remove(worker)
                number = worker.number
                try:
                    answer, problem = worker.pipe.recv()
                except (EOFError, OSError):
                    tried[number] += 1
                    if tried[number] == attempts:
                        raise WorkersDied(number) from None
                    waiting.appendleft(number)
                    idle.append(_Worker(function))
                    continue
                idle.append(worker)
                if problem is not None:
                    raise problem
                yield number, answer
    finally:
        for worker in busy:
            if worker.number in alone:
                worker.process.terminate()
        for worker in busy:
            if worker.number in alone:
                worker.process.join(END_PATIENCE_S)
        for worker in [*idle, *busy]:
            worker.process.kill()
        for worker in [*idle, *busy]:
            worker.process.join()


def _serve(pipe: Connection, function: Callable[..., Any]) -> None:
    end_with_parent()
    interrupt_at_signals()
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            arguments = pipe.recv()
            try:
                pipe.send((function(*arguments), None))
            except Exception as problem:
                pipe.send((None, problem))


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started in here never gets a Ctrl-C: it is ours to end it."""
    resource_tracker.ensure_running()  # else it is started in here, and hears again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
