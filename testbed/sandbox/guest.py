"""Runs one command in a User-Mode Linux guest on the host's own files, with netem, cgroup v2 and Open vSwitch.

The guest is an ordinary process of the caller. It needs no root, has only the caller's rights on files, and when it
ends its interfaces, namespaces and groups are gone. It knows nothing of runs. `guest_init` is the guest's first
process; the two exchange frames over the guest's second console. See Documentation/virt/uml in the kernel's tree and
linux.uml(1).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from testbed.emulation.capsule import tie_to_parent
from testbed.errors import ConfigError, EnvironmentLacks, RunFailed
from testbed.programs import find_program, search_path
from testbed.sandbox import guest_init, uml_registers
from testbed.sandbox.guest_init import STDIN_CHUNK_BYTES, Frames, frame
from testbed.signals import collected_signals
from testbed.temporary import remove_abandoned, temporary_folder
from testbed.units import format_bytes, format_duration

KERNEL = "linux.uml"
PACKAGE = "user-mode-linux"
REMEDY = f"apt-get install {PACKAGE}"
MEMORY_BYTES = 4 * 2**30  # twice what the quick start and its reference model need
LEAST_MEMORY_BYTES = 2**28  # enough for a guest with a Python and nothing else
BOOT_PATIENCE_S = 120.0  # it takes one second on an idle machine
GRACE_S = 30.0  # from the first Ctrl-C to the guest's end; a run inside has 10 s of its own and is slower there
HALT_PATIENCE_S = 10.0  # from the command's end to the guest's; all files are written by then
FOLDER_PREFIX = "headroom-sandbox-"
LOG_LINES = 3  # of the guest kernel's log in an error
# These belong to the host's session and mean nothing in the guest, which gets its own TMPDIR.
NOT_PASSED_ON = ("TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR", "TESTBED_RUNTIME_DIR", "LD_PRELOAD", "NOTIFY_SOCKET")

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")


@dataclass(frozen=True)
class Streams:
    """The caller's ends of the command's standard streams. Without `stdin` the command gets an empty input."""

    stdin: IO[bytes] | None
    stdout: IO[bytes]
    stderr: IO[bytes]


def lacking() -> str | None:
    """One sentence on why no guest can be started here and what to install, or None. Starts nothing."""
    if find_program(KERNEL) is None:
        return f"the sandbox needs User-Mode Linux, and there is no program `{KERNEL}`: {REMEDY}"
    if not Path(guest_init.MODULE_ROOT).is_dir():
        return f"the sandbox's kernel has no modules in {guest_init.MODULE_ROOT}: {REMEDY}"
    return uml_registers.lacking()


def run(
    argv: Sequence[str],
    streams: Streams,
    *,
    memory_bytes: int = MEMORY_BYTES,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> int:
    """Run a command in a guest of its own and return its exit code (128+n for signal n).

    The command's streams are passed through, and SIGINT, SIGTERM and SIGHUP are passed on to it. A second one, or the
    end of the grace, ends the guest. Raises EnvironmentLacks where no guest can be had, RunFailed when the time is over
    or the guest dies, KeyboardInterrupt when the command had to be ended. Only for the main thread.
    """
    missing = lacking()
    if missing is not None:
        raise EnvironmentLacks(missing)
    place = Path.cwd() if cwd is None else cwd.absolute()
    if any(place.is_relative_to(hidden) for hidden in guest_init.HIDDEN):
        raise ConfigError(
            f"the current folder {place} cannot be seen in the sandbox, which has its own "
            f"{', '.join(guest_init.HIDDEN[:-1])}: start it from another folder"
        )
    given = os.environ if env is None else env
    with _job_folder() as folder, collected_signals() as (received, wakeup):
        job = {"argv": list(argv), "cwd": str(place), "env": guest_environment(given)}
        (folder / "job.json").write_text(json.dumps(job))
        return _Guest(folder, memory_bytes, streams, received, wakeup).carry_out(timeout_s)


def guest_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The command's environment: the caller's, with a PATH that also finds `testbed` and the system's programs."""
    passed = {name: value for name, value in env.items() if name not in NOT_PASSED_ON}
    path = os.pathsep.join(filter(None, (passed.get("PATH"), str(Path(sys.executable).parent))))
    return passed | {"PATH": search_path(path), "TMPDIR": guest_init.TEMPORARY}


def memory_folder(memory_bytes: int) -> Path:
    """A folder for the file that is the guest's memory: writable, not `noexec`, with space, in memory if possible.

    User-Mode Linux maps the file executable and unlinks it at once. Raises EnvironmentLacks.
    """
    refusals = []
    for name in dict.fromkeys(("/dev/shm", tempfile.gettempdir(), "/tmp", "/var/tmp")):
        try:
            status = os.statvfs(name)
        except OSError:
            continue
        free = status.f_bavail * status.f_frsize
        if not os.access(name, os.W_OK | os.X_OK):
            refusals.append(f"{name} is not writable")
        elif status.f_flag & os.ST_NOEXEC:
            refusals.append(f"{name} is mounted noexec")
        elif free < memory_bytes:
            refusals.append(f"{name} has {format_bytes(free)} free")
        else:
            return Path(name)
    raise EnvironmentLacks(
        f"there is no place for the sandbox's {format_bytes(memory_bytes)} of memory ({', '.join(refusals)}): "
        "use a smaller --memory, or set TMPDIR to a folder with room on a file system that allows execution"
    )


class _Guest:
    """One guest from start to end: the loop between its console and the caller's streams."""

    def __init__(
        self, folder: Path, memory_bytes: int, streams: Streams, received: list[int], wakeup: socket.socket
    ) -> None:
        self._folder, self._memory_bytes = folder, memory_bytes
        self._streams, self._received, self._wakeup = streams, received, wakeup
        self._frames = Frames()
        self._ready = self._console_closed = False
        self._code: int | None = None
        self._input_open = streams.stdin is not None
        self._unsent = b""  # frames that the console cannot take yet
        self._on_the_way = 0  # bytes of input that the command has not taken yet
        self._passed_on = 0  # how many signals

    def carry_out(self, timeout_s: float | None) -> int:
        """Start the guest, serve it, and end it whatever happens."""
        process = self._start()
        try:
            return self._attend(process, timeout_s)
        finally:
            if self._code is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(HALT_PATIENCE_S)
            end_session(process)
            self._console.close()

    def _start(self) -> subprocess.Popen[bytes]:
        init = self._folder / "init"  # a file, because paths on a kernel's command line cannot have spaces
        script = [sys._base_executable, "-IS", guest_init.__file__, str(self._folder / "job.json")]  # type: ignore[attr-defined]
        init.write_text(f"#!/bin/sh\nexec {shlex.join(script)}\n")
        init.chmod(0o700)
        self._console, theirs = socket.socketpair()
        command = [
            KERNEL,
            f"mem={self._memory_bytes >> 20}M",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            f"init={init}",
            "con=null",
            "con0=null,fd:1",
            f"con1=fd:{theirs.fileno()},fd:{theirs.fileno()}",
            "ssl=null",
            f"uml_dir={self._folder}/",
            "umid=guest",
        ]
        needed = {"TMPDIR": str(memory_folder(self._memory_bytes)), **uml_registers.preloads(self._folder)}
        supervisor = os.getpid()

        def die_with_supervisor() -> None:  # between fork and exec; at SIGTERM the guest's kernel ends its processes
            tie_to_parent(supervisor, signal.SIGTERM)

        with (self._folder / "log").open("wb") as log, theirs:
            process = subprocess.Popen(
                command,
                cwd="/",
                env=os.environ | needed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on
                preexec_fn=die_with_supervisor,
            )
        self._console.setblocking(False)
        return process

    def _attend(self, process: subprocess.Popen[bytes], timeout_s: float | None) -> int:
        started = time.monotonic()
        boot_deadline = started + BOOT_PATIENCE_S
        deadline = None if timeout_s is None else started + timeout_s
        grace_ends: float | None = None
        late = False
        while self._code is None:
            now = time.monotonic()
            if len(self._received) > self._passed_on or (deadline is not None and now >= deadline and not late):
                late = len(self._received) == self._passed_on
                number = signal.SIGINT if late else self._received[self._passed_on]
                self._passed_on += not late
                if not self._ready or self._passed_on > 1:
                    break
                self._send(guest_init.SIGNAL, bytes([number]))
                grace_ends = now + GRACE_S
            if grace_ends is not None and now >= grace_ends:
                break
            if not self._ready and now >= boot_deadline:
                raise EnvironmentLacks(f"the sandbox did not start within {BOOT_PATIENCE_S:g} s{self._last_words()}")
            timeouts = (grace_ends, None if late else deadline, None if self._ready else boot_deadline)
            self._exchange(min((each - now for each in timeouts if each is not None), default=None))
            if self._console_closed:
                process.wait(HALT_PATIENCE_S)
                if self._ready:
                    raise RunFailed(f"the sandbox's guest died before its command ended{self._last_words()}")
                raise EnvironmentLacks(f"the sandbox could not start{self._last_words()}")
        if late:
            assert timeout_s is not None
            raise RunFailed(
                f"the command did not finish within {format_duration(timeout_s)}, its --timeout, and was ended"
            )
        if self._code is None:
            raise KeyboardInterrupt
        return self._code

    def _exchange(self, timeout_s: float | None) -> None:
        """Wait for something to do on any stream, and do it."""
        reading: list[IO[bytes] | socket.socket] = [self._wakeup]
        stdin = self._streams.stdin
        wants_input = self._ready and self._input_open and not self._on_the_way and not self._unsent
        if wants_input and stdin is not None:
            reading.append(stdin)
        with selectors.PollSelector() as streams:  # epoll would not take a file as the standard input
            streams.register(self._console, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0))
            for stream in reading:
                streams.register(stream, selectors.EVENT_READ)
            ready = {key.fileobj: events for key, events in streams.select(timeout_s)}
        if self._wakeup in ready:
            self._wakeup.recv(64)
        if ready.get(self._console, 0) & selectors.EVENT_WRITE:
            self._send()
        if stdin is not None and stdin in ready:
            data = os.read(stdin.fileno(), STDIN_CHUNK_BYTES)
            self._input_open = bool(data)
            self._on_the_way += len(data)
            self._send(guest_init.STDIN, data)
        if ready.get(self._console, 0) & selectors.EVENT_READ:
            self._hear()

    def _hear(self) -> None:
        try:
            data = self._console.recv(1 << 16)
        except ConnectionError:
            data = b""
        self._console_closed = not data
        for kind, payload in self._frames.feed(data):
            if kind == guest_init.READY:
                self._ready = True
                if not self._input_open:
                    self._send(guest_init.STDIN)
            elif kind in (guest_init.STDOUT, guest_init.STDERR):
                stream = self._streams.stdout if kind == guest_init.STDOUT else self._streams.stderr
                stream.write(payload)
                stream.flush()
            elif kind == guest_init.TAKEN:
                self._on_the_way -= struct.unpack("!I", payload)[0]
            elif kind == guest_init.EXIT:
                (self._code,) = struct.unpack("!i", payload)
            elif kind == guest_init.LACKS:
                raise EnvironmentLacks(f"the sandbox could not start: {payload.decode()}")

    def _send(self, kind: bytes | None = None, payload: bytes = b"") -> None:
        if kind is not None:
            self._unsent += frame(kind, payload)
        try:
            while self._unsent:
                self._unsent = self._unsent[self._console.send(self._unsent) :]
        except BlockingIOError:
            return
        except ConnectionError:
            self._unsent = b""  # the guest has died, as the next read from its console shows

    def _last_words(self) -> str:
        """The end of the guest kernel's log, for an error message."""
        log = (self._folder / "log").read_text(errors="replace")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        panic = next((number for number, line in enumerate(lines) if "Kernel panic" in line), None)
        if panic is not None:
            return f": {lines[panic]}"
        return f": {' | '.join(lines[-LOG_LINES:])}" if lines else " and left no message"


def _base() -> Path:
    """Where guests have their folders: visible in a guest, without spaces or commas for a kernel's command line."""
    base = Path(tempfile.gettempdir()).resolve()
    if any(base.is_relative_to(hidden) for hidden in guest_init.HIDDEN) or not _PLAIN_PATH.fullmatch(str(base)):
        return Path("/tmp")
    return base


def remove_killed() -> list[str]:
    """Remove the folders of the caller's sandboxes that were killed, and end their guests; returns the folders.

    A guest ends with its sandbox, but its kernel can hang if the signal comes in the middle of an interrupt.
    """
    return remove_abandoned(FOLDER_PREFIX, _base(), _end_guest)


def _end_guest(folder: Path) -> None:
    """Kill the caller's processes that are of the guest in this folder: each has the kernel's command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if entry.stat().st_uid == os.geteuid() and f"init={folder}/init".encode() in words:
                    os.kill(int(entry.name), signal.SIGKILL)


@contextlib.contextmanager
def _job_folder() -> Iterator[Path]:
    """A folder for one guest, removed at the end; what killed sandboxes left is removed first."""
    remove_killed()
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(FOLDER_PREFIX, _base()))
        except OSError as error:
            raise EnvironmentLacks(
                f"the sandbox cannot make a folder in {_base()}: {error.strerror}; set TMPDIR"
            ) from error
        yield folder


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a guest and every host process of it: its whole session, in which there is nothing else of ours.

    Its kernel comes first and politely, because it ends its own processes. Those that it could not end are killed.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
    for pid in _session(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _session(leader: int) -> list[int]:
    """The processes of a session; see proc(5) on stat."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    found.append(int(entry))
    return found
