"""A pool of worker processes that no other process can talk to, and that survives the death of a worker.

The workers talk to this process over inherited pipes. Nothing listens anywhere, so no other user can run code here.
The pools of the standard library break when one of their workers is killed; this one tries the call again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from testbed.emulation.own_tempdir import use_own_tempdir
from testbed.emulation.plain_main import plain_main
from testbed.signals import held_signals, interrupt_at_signals
from testbed.worker.parent_death import end_with_parent

PRELOAD = ["testbed.running.simulated_run"]
END_PATIENCE_S = 15.0  # for an emulated run to take down what it has made
ATTEMPTS = 3  # workers that may die under one call before that counts as the call's fault


class WorkersDied(Exception):
    """Several workers in turn died while they carried out the same call; `args[0]` is the call's number."""


class _Worker:
    """One worker process, and this process's end of its pipe."""

    def __init__(self, function: Callable[..., Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        self.pipe, theirs = context.Pipe()
        self.number = -1  # of the call that it carries out
        with plain_main(), _interrupts_blocked():
            context.set_forkserver_preload(PRELOAD)
            forkserver.ensure_running()
            self.process: ForkServerProcess = context.Process(target=_serve, args=(theirs, function), daemon=True)
            self.process.start()
        theirs.close()


def call_in_pool(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], alone: Collection[int] = ()
) -> Generator[tuple[int, Any], None, None]:
    """Call the function with each tuple of arguments, and yield (number of the call, its answer) as each ends.

    There is one worker for each core. Calls whose numbers are in `alone` are carried out one at a time, and their
    workers are given time to clean up if the caller stops early. A call whose worker died is tried again. Raises
    WorkersDied after `ATTEMPTS` deaths, and whatever a call raises. Closing the generator ends the workers.
    """
    use_own_tempdir()
    waiting, tried = deque(range(len(calls))), [0] * len(calls)
    idle: list[_Worker] = []
    busy: list[_Worker] = []
    try:
        with held_signals():  # a worker whose start is cut short would print a traceback
            idle += [_Worker(function) for _ in range(max(1, min(os.cpu_count() or 1, len(calls))))]
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
                with suppress(OSError):  # it has died; the pipe's end says so below
                    worker.pipe.send(calls[number])
            ready = wait([worker.pipe for worker in busy])
            for worker in [one for one in busy if one.pipe in ready]:
                busy.remove(worker)
                number = worker.number
                try:
                    answer, problem = worker.pipe.recv()
                except (EOFError, OSError):
                    tried[number] += 1
                    if tried[number] == ATTEMPTS:
                        raise WorkersDied(number) from None
                    waiting.appendleft(number)
                    idle.append(_Worker(function))
                    continue
                idle.append(worker)
                if problem is not None:
                    raise problem
                yield number, answer
    finally:
        emulating = [worker for worker in busy if worker.number in alone]
        for worker in emulating:
            worker.process.terminate()
        for worker in emulating:
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
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C for processes started in this block: this process ends them."""
    resource_tracker.ensure_running()  # if it were started in the block, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
