"""Workers as children of one forkserver that has torch and the worker loaded once.

Twenty fresh interpreters take fifteen seconds and 143 MB each; forked from a warm server they take a tenth
of a second and a few megabytes. The forkserver stays single-threaded and touches no tensor.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver as server
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType
from typing import Any

from testbed.errors import RunFailed
from testbed.worker.entry import WorkerConfig, run_worker
from testbed.worker.lifeline import end_with_parent

PRELOAD = ["testbed.emulation.preload"]


@contextmanager
def _plain_main() -> Iterator[None]:
    """Hide the caller's `__main__`, which multiprocessing would import again in every child."""
    mine = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = mine


def forkserver() -> ForkServerContext:
    """The context whose processes are forked from the warm server; starts it, and its loading, if it does not run."""
    # The OpenMP pool of an imported library must not start threads in the server.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with _plain_main():
        server.ensure_running()
    return context


def start_worker(context: ForkServerContext, config: WorkerConfig) -> ForkServerProcess:
    """Start one worker; it reports by `Hello` on the control plane."""
    process = context.Process(target=run_worker, args=(config,), name=f"worker-{config.device}")
    start_process(process)
    return process


def start_process(process: ForkServerProcess) -> None:
    """Start a process of the forkserver's context; it is ended with this one at the latest."""
    process.daemon = True
    with _plain_main():
        process.start()


def call(context: ForkServerContext, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function answers in a child of the forkserver, which has torch loaded; raises RunFailed if it raises."""
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, function, arguments), name=function.__name__)
    start_process(process)
    theirs.close()
    try:
        answer, problem = ours.recv()
    except EOFError:
        process.join()
        raise RunFailed(f"the process for {function.__name__} ended with code {process.exitcode}") from None
    process.join()
    if problem is not None:
        raise problem
    return answer


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        connection.send((function(*arguments), None))
    except Exception as problem:
        connection.send((None, problem))
