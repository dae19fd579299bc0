"""The capsule: a run's own PID, mount and network namespaces, and the supervisor that ends it whatever happens.

The supervisor stays outside and starts the inner process, which is PID 1 of the capsule. When either dies, even by
`kill -9`, the kernel ends everything inside, and the interfaces go with it. util-linux `unshare` makes the capsule;
see unshare(1), pid_namespaces(7) and PR_SET_PDEATHSIG in prctl(2). This module knows nothing of what runs inside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from testbed.emulation.processes import children_of, is_stopped
from testbed.errors import EnvironmentLacks, RunFailed
from testbed.programs import complaint, find_program
from testbed.signals import Collected, collected_signals
from testbed.waiting import await_readable
from testbed.worker.libc import signal_at_parents_death

STOPPED_PATIENCE_S = 20.0  # longer than the inner process waits for processes that it has started
GRACE_S = 10.0  # from the first Ctrl-C to SIGKILL: enough to remove twenty cgroups
PROBE_TIMEOUT_S = 10.0
CANNOT_START = 126  # exit code of a child whose parent died before it was tied to it; 126 as in sh

_HELD = (signal.SIGINT, signal.SIGTERM)
_CAP_SYS_ADMIN = 21
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_FORK_WAIT_S = 5.0
_KILL_WAIT_S = 5.0
_LOOK_S = 1.0
_WITH_ERRORS_TO = "import os, sys; fd, *argv = sys.argv[1:]; os.dup2(int(fd), 2); os.execvp(argv[0], argv)"
# When its child was killed, util-linux 2.38 tries to die of the same signal, and complains that it cannot.
_KILLED_INSIDE = b"sigprocmask"


def launch(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    capsule: bool = True,
    grace_s: float = GRACE_S,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    on_start: Callable[[int, int], None] | None = None,
    hold_signals: bool = False,
    signals: Collected | None = None,
) -> int:
    """Run `argv`, in a capsule or (capsule=False) as a plain process, and return its exit code (128+n for signal n).

    Standard streams are inherited. SIGINT, SIGTERM and SIGHUP become one SIGINT to the inner process, which has
    `grace_s` to end. After that, or at a second signal, it is killed and the code is 130, as for SIGINT. `on_start`
    gets two pids as this host sees them: of the process started, and of the inner one (the same without a capsule).

    The inner process dies with this one. What is left of its session when it has ended is killed. An inner process
    that has been stopped by a signal for `STOPPED_PATIENCE_S` is killed too, and RunFailed is raised.

    `hold_signals` is for a program that calls `prepare_inner`: an early SIGINT then waits for that call. Otherwise it
    would be dropped (PID 1 has no handler yet) or hit an interpreter that is still starting. `signals` holds what the
    caller has collected so far; if one has come already, nothing is started.

    Only for the main thread: the kernel ties the child to its *thread*.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("launch() must be called from the main thread")
    with contextlib.ExitStack() as undo:
        received, wakeup = undo.enter_context(collected_signals()) if signals is None else signals
        if received:
            return 128 + signal.SIGINT
        command, said = list(argv), None
        if capsule:  # what `unshare` itself says is kept apart
            errors = os.dup(2)
            undo.callback(os.close, errors)
            command = [*unshare_command(), sys.executable, "-I", "-S", "-c", _WITH_ERRORS_TO, str(errors), *argv]
            pass_fds = [*pass_fds, errors]
            said = undo.enter_context(open(os.memfd_create("unshare"), "w+b"))
        process = _start(command, env=env, cwd=cwd, pass_fds=pass_fds, hold_signals=hold_signals, errors=said)
        inner = process.pid
        try:
            if capsule:
                inner = _only_child(process) or process.pid
            if on_start is not None:
                on_start(process.pid, inner)
            code = _supervise(process, inner, received, wakeup, grace_s)
        finally:
            _end(process, inner)
        return code if said is None else _pass_on(said, code)


def unshare_command() -> list[str]:
    """The command line that makes a capsule around what is appended to it; with a user namespace only where needed."""
    user = [] if _may_unshare() else ["--user", "--map-root-user"]
    return ["unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc", "--mount", "--net", "--"]


def can_make_capsule() -> str | None:
    """None if a capsule can be made, which is tried; else one sentence on why not and what would help."""
    if find_program("unshare") is None:
        return "there is no program `unshare`: install util-linux"
    try:
        probe = subprocess.run(
            [*unshare_command(), "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"`unshare` did not finish within {PROBE_TIMEOUT_S:g} s: run as root"
    if probe.returncode == 0:
        return None
    return f"a capsule cannot be made ({complaint(probe.returncode, probe.stderr)}): {_remedy()}"


def prepare_inner() -> None:
    """Set up signal handlers and the loopback interface. The inner process calls this first.

    The kernel drops signals that PID 1 has no handler for, so SIGINT and SIGTERM get one: KeyboardInterrupt. Orphans in
    the capsule become children of PID 1. They are not waited for here, because waiting for any child would take exit
    codes away from `subprocess` and `multiprocessing`; their zombies end with the capsule.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack_from("=H", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", b"lo")), 16)
        if flags & _IFF_UP:
            return
        try:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("=16sH22x", b"lo", flags | _IFF_UP))
        except OSError as error:
            raise EnvironmentLacks(
                f"cannot bring the loopback interface up: {error.strerror}; the run is not inside a capsule of its own"
            ) from error


def _start(
    command: list[str],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    pass_fds: Sequence[int],
    hold_signals: bool,
    errors: IO[bytes] | None,
) -> subprocess.Popen[bytes]:
    supervisor = os.getpid()

    def die_with_supervisor() -> None:  # between fork and exec
        if hold_signals:
            signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        tie_to_parent(supervisor, signal.SIGKILL)

    sys.stdout.flush()
    sys.stderr.flush()
    try:
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            stderr=errors,
            start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone
            preexec_fn=die_with_supervisor,
        )
    except FileNotFoundError as error:
        raise EnvironmentLacks(
            f"cannot start {command[0]}: no such program; install it (unshare: util-linux)"
        ) from error


def _supervise(
    process: subprocess.Popen[bytes], inner: int, received: list[int], wakeup: socket.socket, grace_s: float
) -> int:
    """Wait for the end. Pass the first signal on; kill at the second, or when the grace is over."""
    pidfd, poll = os.pidfd_open(process.pid), select.poll()
    for descriptor in (pidfd, wakeup.fileno()):
        poll.register(descriptor, select.POLLIN)
    deadline: float | None = None
    stopped_since: float | None = None
    try:
        while not await_readable(pidfd, 0):
            if received and deadline is None:
                deadline = time.monotonic() + grace_s
                with contextlib.suppress(ProcessLookupError):
                    os.kill(inner, signal.SIGINT)
            if deadline is not None and (len(received) > 1 or time.monotonic() >= deadline):
                _end(process, inner)
                return 128 + signal.SIGINT
            stopped = is_stopped(inner) or is_stopped(process.pid)
            stopped_since = (stopped_since or time.monotonic()) if stopped else None
            if stopped_since is not None and time.monotonic() - stopped_since >= STOPPED_PATIENCE_S:
                raise RunFailed(f"the run's own process had been stopped by a signal for {STOPPED_PATIENCE_S:.0f} s")
            timeout = _LOOK_S if deadline is None else min(_LOOK_S, max(0.0, deadline - time.monotonic()))
            if wakeup.fileno() in dict(poll.poll(timeout * 1000)):
                wakeup.recv(64)
    finally:
        os.close(pidfd)
    # The pid cannot belong to another process, because it has not been waited for. This ends a stopped forkserver.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    return 128 - code if code < 0 else code


def _pass_on(said: IO[bytes], code: int) -> int:
    """Repeat what `unshare` has said, and return the inner process's exit code."""
    said.seek(0)
    complaints = said.read()
    if code == 1 and _KILLED_INSIDE in complaints:
        return 128 + signal.SIGKILL
    sys.stderr.write(complaints.decode(errors="replace"))
    return code


def tie_to_parent(parent: int, number: signal.Signals) -> None:
    """Between fork and exec: have the kernel send this signal to the child when its parent, `parent`, dies."""
    signal_at_parents_death(number)
    if os.getppid() != parent:  # it died before the line above
        os._exit(CANNOT_START)


def _only_child(process: subprocess.Popen[bytes]) -> int | None:
    """The pid of `unshare`'s child as this host sees it; None if unshare ended without one, or the child has ended.

    It leaves waiting for `unshare` to the caller, so that its pid stays its own until then.
    """
    deadline = time.monotonic() + _FORK_WAIT_S
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, process.pid, ended) is None and time.monotonic() < deadline:
        for child in children_of(process.pid):
            return child
        time.sleep(0.002)
    return None


def _end(process: subprocess.Popen[bytes], inner: int) -> None:
    """SIGKILL what still runs, and return when the inner process is gone too, and the whole capsule with it.

    `unshare` goes first and takes its child along (--kill-child); the other way round it complains on stderr.
    """
    if process.poll() is not None:
        return
    try:
        pidfd = os.pidfd_open(inner)
    except ProcessLookupError:
        process.kill()
    else:
        process.kill()
        await_readable(pidfd, _KILL_WAIT_S)
        os.close(pidfd)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _may_unshare() -> bool:
    """Whether this process has CAP_SYS_ADMIN; see capabilities(7)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def _remedy() -> str:
    if _may_unshare() or os.geteuid() == 0:
        return "start the container it forbids this in with CAP_SYS_ADMIN, or use --backend local"
    for path, bad, fix in (
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ):
        with contextlib.suppress(OSError):
            if Path("/proc/sys", path).read_text().strip() == bad:
                return f"run as root, or allow user namespaces with `sudo sysctl {fix}`"
    return "run as root, or use --backend local"
