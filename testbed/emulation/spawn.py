"""Workers as children of one forkserver that has torch and the worker loaded once.

Twenty fresh interpreters take fifteen seconds and 143 MB each; forked from a warm server they take a tenth
of a second and a few megabytes. The forkserver stays single-threaded and touches no tensor.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType

from testbed.worker.main import WorkerConfig, run

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
    """The context whose processes are forked from the warm server; starts the server if it does not run."""
    # The OpenMP pool of an imported library must not start threads in the server.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def start_worker(context: ForkServerContext, config: WorkerConfig) -> ForkServerProcess:
    """Start one worker; it reports by `Hello` on the control plane."""
    process = context.Process(target=run, args=(config,), name=f"worker-{config.device}")
    start_process(process)
    return process


def start_process(process: ForkServerProcess) -> None:
    """Start a process of the forkserver's context; it is ended with this one at the latest."""
    process.daemon = True
    with _plain_main():
        process.start()
