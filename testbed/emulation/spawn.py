"""Workers as children of one forkserver, which has loaded the worker and its kernels once.

Twenty fresh interpreters take fifteen seconds and 143 MB each. Forked from a warm server they take a tenth of a
second and a few megabytes. The forkserver stays single-threaded and touches no tensor.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver as server
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from typing import Any

from testbed.decoder import kernels
from testbed.emulation.plain_main import plain_main
from testbed.emulation.processes import children_of, cpu_ticks, has_ended, is_stopped
from testbed.emulation.stall_detector import StallDetector
from testbed.errors import RunFailed
from testbed.signals import held_signals
from testbed.worker.config import WorkerConfig
from testbed.worker.entry import run_worker
from testbed.worker.parent_death import end_with_parent

PRELOAD = ["testbed.emulation.preload"]
FORKSERVER = "the forkserver, which starts workers,"
FORKSERVER_ENDED = f"{FORKSERVER} has ended in the middle of the run"
IDLE_PATIENCE_S = 45.0  # without an answer or CPU time; while it loads on a busy host it may take long
KILL_PATIENCE_S = 5.0
LEAVE_PATIENCE_S = 1.0  # for a process that has answered
_LOOK_S = 0.5
_UNTOLD = 255  # what multiprocessing takes for an exit code where the forkserver cannot tell it any more


def forkserver() -> ForkServerContext:
    """The context whose processes are forked from the warm server; starts the server, and its loading, if needed.

    Raises EnvironmentLacks if the workers' kernels cannot be compiled.
    """
    kernels.library()
    # The OpenMP pool of an imported library must not start threads in the server.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with plain_main():
        server.ensure_running()
    return context


def start_worker(context: ForkServerContext, config: WorkerConfig) -> ForkServerProcess:
    """Start one worker. It reports by `Hello` on the control plane."""
    process = context.Process(target=run_worker, args=(config,), name=f"worker-{config.device}")
    start_process(process)
    return process


def start_process(process: ForkServerProcess) -> None:
    """Start a process of the forkserver's context; it ends with this one at the latest.

    Raises RunFailed when the forkserver has ended or does not answer.
    """
    process.daemon = True
    before = forkserver_pid()
    # In place of one that has ended, multiprocessing starts another without a word.
    _refuse_dead_forkserver()
    # An interrupt in the middle would leave the forkserver half a request, of which it dies with a traceback.
    with held_signals(), plain_main(), _answering():
        process.start()
    if before not in (None, forkserver_pid()):
        raise RunFailed(FORKSERVER_ENDED)


def forkserver_pid() -> int | None:
    """The forkserver's pid, once it runs."""
    pid: int | None = server._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


def exit_code(process: BaseProcess) -> int | None:
    """How a process has ended that has just ended; raises RunFailed where it did so because the forkserver had."""
    process.join(LEAVE_PATIENCE_S)
    deadline = time.monotonic() + LEAVE_PATIENCE_S
    while process.exitcode == _UNTOLD and time.monotonic() < deadline:
        _refuse_dead_forkserver()
        time.sleep(0.02)  # it closes its pipes a moment before it has ended
    return process.exitcode


def _refuse_dead_forkserver() -> None:
    pid = forkserver_pid()
    if pid is not None and has_ended(pid):
        raise RunFailed(FORKSERVER_ENDED)


def end_processes(processes: Iterable[BaseProcess], patience_s: float = 0.0) -> None:
    """Wait for processes to end by themselves, then kill them; returns within seconds whatever they do.

    The forkserver reports how its children end. One that does not, because it is stopped, is killed too, and its
    children with it.
    """
    left = list(processes)
    deadline = time.monotonic() + patience_s
    for process in left:
        process.join(max(0.0, deadline - time.monotonic()))
    left = [process for process in left if process.is_alive()]
    for process in left:
        process.kill()
    for last in (False, True):
        deadline = time.monotonic() + KILL_PATIENCE_S
        for process in left:
            process.join(max(0.0, deadline - time.monotonic()))
        if not last and any(process.is_alive() for process in left):
            _kill_forkserver()


def call(context: ForkServerContext, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a child of the forkserver, where the decoder is loaded; raises what it raises.

    The function may compute as long as it likes. RunFailed is raised when its process ends or is stopped.
    """
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, function, arguments), name=function.__name__)
    start_process(process)
    theirs.close()
    stalls = StallDetector()
    assert process.pid is not None
    try:
        while not ours.poll(_LOOK_S):
            stalls.check({f"the process for {function.__name__}": process.pid})
        answer, problem = ours.recv()
    except EOFError:
        end_processes([process], KILL_PATIENCE_S)
        raise RunFailed(f"the process for {function.__name__} ended with code {process.exitcode}") from None
    finally:
        end_processes([process], LEAVE_PATIENCE_S)
    if problem is not None:
        raise problem
    return answer


@contextmanager
def _answering() -> Iterator[None]:
    """Guard a block in which multiprocessing waits for the forkserver without a time limit.

    Only a death ends that wait. So a thread kills a server that is stopped or does nothing, and a child that is stopped
    before it has read what it is to do.
    """
    answered = threading.Event()
    trouble: list[str] = []

    def watch() -> None:
        stalls, used, since_s = StallDetector(), 0, time.monotonic()
        stopped: list[int] = []
        while not answered.wait(_LOOK_S):
            try:
                pid = forkserver_pid()
                stopped = [child for child in children_of(pid) if is_stopped(child)] if pid is not None else []
                watched = {FORKSERVER: pid} if pid is not None else {}
                stalls.check(watched | {f"a process (pid {child}) that is to start": child for child in stopped})
                if pid is not None and cpu_ticks(pid) != used:
                    used, since_s = cpu_ticks(pid), time.monotonic()
                if time.monotonic() - since_s > IDLE_PATIENCE_S:
                    raise RunFailed(f"{FORKSERVER} gave no answer for {IDLE_PATIENCE_S:.0f} s")
            except RunFailed as error:
                trouble.append(str(error))
                for child in stopped:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                _kill_forkserver()
                return

    threading.Thread(target=watch, name="forkserver-watch", daemon=True).start()
    try:
        yield
    except (EOFError, OSError) as error:
        why = trouble[0] if trouble else f"{FORKSERVER} ended while it started a process ({error})"
        raise RunFailed(why) from error
    finally:
        answered.set()


def _kill_forkserver() -> None:
    pid = forkserver_pid()
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _answer(connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        connection.send((function(*arguments), None))
    except Exception as problem:
        connection.send((None, problem))
