"""The first process of a sandbox's guest: mounts, kernel modules, then the command, with its streams on one console.

It runs inside User-Mode Linux by its path, as PID 1 (`python -IS guest_init.py JOB`), so it may import the standard
library alone. `guest` on the host imports the frames' format from here. Anything it cannot do ends in a LACKS frame.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

CONSOLE = "/dev/tty1"  # the guest's end of the sandbox's `con1=fd:…`
HEADER: Final = struct.Struct("!cI")  # kind, payload bytes
CHUNK_BYTES = 16384
# The next piece of input is sent when the command has taken the last one. So a signal waits behind one piece at most,
# and the console never fills up: at 3968 unread bytes Linux 6.1 throttles it, and User-Mode Linux never wakes it again.
STDIN_CHUNK_BYTES = 2048

# From the guest: it is up; the command's output; how many bytes of input were taken; exit code; why it failed.
READY, STDOUT, STDERR, TAKEN, EXIT, LACKS = b"R", b"O", b"E", b"T", b"X", b"L"
# From the host: input for the command (empty: its end); a signal for the command's process group.
STDIN, SIGNAL = b"I", b"S"

MODULE_ROOT = "/usr/lib/uml/modules"
MODULES = (
    "veth", "bridge", "sch_tbf", "sch_netem", "sch_htb", "sch_ingress", "ifb", "cls_u32", "act_mirred", "openvswitch",
)  # fmt: skip
HIDDEN = ("/dev", "/proc", "/run", "/sys", "/var/run")  # host folders in whose place the guest has its own
TEMPORARY = "/run/tmp"
OPEN_FILES = 65536

_FINIT_MODULE = 313  # asm/unistd_64.h; User-Mode Linux runs on x86 alone
_RB_POWER_OFF = 0x4321FEDC  # linux/reboot.h
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # exit codes as in sh
_libc = ctypes.CDLL(None, use_errno=True)


class GuestLacks(Exception):
    """The guest could not be given what a run needs; the message says what."""


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """One message for the other side."""
    return HEADER.pack(kind, len(payload)) + payload


class Frames:
    """Cuts what arrives on the console into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The (kind, payload) of every frame that `data` completes."""
        self._rest += data
        while len(self._rest) >= HEADER.size:
            kind, size = HEADER.unpack_from(self._rest)
            end = HEADER.size + size
            if len(self._rest) < end:
                return
            payload, self._rest = self._rest[HEADER.size : end], self._rest[end:]
            yield kind, payload


# --- the machine -------------------------------------------------------------------------------------------


def make_machine() -> None:
    """Set up what a booted Linux has: file systems, delegated cgroup controllers, loopback, many open files."""
    _mount("proc", "/proc")
    _mount("sysfs", "/sys")
    if not os.path.exists(CONSOLE):  # the kernel mounts it by itself where the host has a /dev
        _mount("devtmpfs", "/dev")
    for folder, kind, options in (
        ("/dev/pts", "devpts", "mode=620,ptmxmode=666"),
        ("/dev/shm", "tmpfs", "mode=1777"),
        ("/run", "tmpfs", "mode=755"),
        ("/sys/fs/cgroup", "cgroup2", ""),
    ):
        os.makedirs(folder, exist_ok=True)
        _mount(kind, folder, options)
    for name, number in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(f"/proc/self/fd{number}", f"/dev/{name}")
    for folder in ("/run/lock", TEMPORARY):
        os.mkdir(folder)
        os.chmod(folder, 0o1777)
    offered = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in offered))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    socket.sethostname("sandbox")
    _loopback_up()


def load_modules(wanted: Iterable[str], version: str) -> None:
    """Load kernel modules and what they depend on, in the order of modules.dep, without kmod; see finit_module(2)."""
    base = Path(MODULE_ROOT, version)
    if not (base / "modules.dep").exists():
        raise GuestLacks(f"there is no {base}/modules.dep: kernel and modules must be of one version")
    for path in load_order((base / "modules.dep").read_text(), wanted):
        descriptor = os.open(base / path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.syscall(_FINIT_MODULE, descriptor, b"", 0) != 0 and ctypes.get_errno() != errno.EEXIST:
                raise GuestLacks(f"the kernel module {base / path} does not load: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(descriptor)
    if os.path.isdir("/lib/modules"):  # for modprobe, where the host has one
        _mount("hostfs", "/lib/modules", MODULE_ROOT)


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """The files to load, each after what it depends on, from the text of a modules.dep (see depmod(8)).

    A module that is not listed is built in, or this kernel has none; then the kernel says so to whoever needs it.
    """
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in modules_dep.splitlines())}
    by_name = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    order: dict[str, None] = {}

    def visit(path: str) -> None:
        if path not in order:
            for needed in reversed(needs.get(path, [])):  # depmod writes the nearest first
                visit(needed)
            order[path] = None

    for name in wanted:
        if name in by_name:
            visit(by_name[name])
    return list(order)


def _mount(kind: str, folder: str, options: str = "") -> None:
    if _libc.mount(b"none", folder.encode(), kind.encode(), 0, options.encode()) != 0:
        code = ctypes.get_errno()
        if code != errno.EBUSY:  # it is mounted already
            raise GuestLacks(f"the guest cannot mount {kind} on {folder}: {os.strerror(code)}")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("=16sH22x", b"lo", _IFF_UP))


# --- the command -------------------------------------------------------------------------------------------


class Console:
    """The guest's end of the sandbox's console, raw in both directions."""

    def __init__(self) -> None:
        self.descriptor = os.open(CONSOLE, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        tty.setraw(self.descriptor)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send one frame; waits while the host is slow."""
        data = frame(kind, payload)
        while data:
            data = data[os.write(self.descriptor, data) :]

    def drain(self) -> None:
        """Wait until all that was sent has left."""
        termios.tcdrain(self.descriptor)


class Command:
    """The command with its three pipes, between the console and the kernel."""

    def __init__(self, console: Console, job: dict[str, Any]) -> None:
        self._console = console
        self._frames = Frames()
        self._pending = b""  # input that its pipe cannot take yet
        self._input_ends = False
        self._selector = selectors.DefaultSelector()
        self._wake = self._watch_children()
        self._process = subprocess.Popen(
            job["argv"], cwd=job["cwd"], env=job["env"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True, bufsize=0,
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin: int | None = self._process.stdin.fileno()
        self._outputs = {self._process.stdout.fileno(): STDOUT, self._process.stderr.fileno(): STDERR}
        for descriptor in (self._stdin, *self._outputs):
            os.set_blocking(descriptor, False)

    def run(self) -> int:
        """Run it to its end; returns the exit code as a shell gives it (128+n for signal n)."""
        for descriptor in (self._wake, self._console.descriptor, *self._outputs):
            self._selector.register(descriptor, selectors.EVENT_READ)
        code: int | None = None
        while code is None:
            for key, _ in self._selector.select():
                if key.fd == self._console.descriptor:
                    self._hear()
                elif key.fd == self._wake:
                    os.read(self._wake, 4096)
                    code = self._reap()
                elif key.fd == self._stdin:
                    self._feed()
                elif key.fd in self._outputs:
                    self._relay(key.fd)
        for descriptor in list(self._outputs):  # its last output; a daemon that it left may hold the pipe open
            while self._relay(descriptor):
                continue
        return code

    def _watch_children(self) -> int:
        """A descriptor that becomes readable when a child ends."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return reader

    def _reap(self) -> int | None:
        """Wait for children that have ended (orphans come to PID 1); the command's exit code once it has ended."""
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self._process.pid:
                code = os.waitstatus_to_exitcode(status)
                found = 128 - code if code < 0 else code

    def _hear(self) -> None:
        try:
            data = os.read(self._console.descriptor, CHUNK_BYTES)
        except OSError:
            data = b""
        if not data:
            raise EOFError("the host has gone")
        for kind, payload in self._frames.feed(data):
            if kind == SIGNAL:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, payload[0])
            elif kind == STDIN:
                self._pending += payload
                self._input_ends |= not payload
        self._feed()

    def _feed(self) -> None:
        """Give the command as much input as its pipe can take."""
        if self._stdin is None:
            self._take(len(self._pending))
            return
        try:
            self._take(os.write(self._stdin, self._pending) if self._pending else 0)
        except BlockingIOError:
            self._want_room(True)
            return
        except BrokenPipeError:  # the command reads no more
            self._take(len(self._pending))
            self._input_ends = True
        self._want_room(bool(self._pending))
        if self._input_ends and not self._pending:
            assert self._process.stdin
            self._process.stdin.close()
            self._stdin = None

    def _take(self, size: int) -> None:
        self._pending = self._pending[size:]
        if size:
            self._console.send(TAKEN, struct.pack("!I", size))

    def _want_room(self, wanted: bool) -> None:
        assert self._stdin is not None
        registered = self._stdin in self._selector.get_map()
        if wanted and not registered:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        elif registered and not wanted:
            self._selector.unregister(self._stdin)

    def _relay(self, descriptor: int) -> bool:
        """Pass on one piece of output; returns False when there is none."""
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._console.send(self._outputs[descriptor], data)
            return True
        self._selector.unregister(descriptor)
        del self._outputs[descriptor]
        return False


def run_command(console: Console, job: dict[str, Any]) -> int:
    """Start the command and serve it. One that cannot be started ends as in a shell."""
    program, path = job["argv"][0], job["env"].get("PATH", os.defpath)
    if "/" not in program and shutil.which(program, path=path) is None:  # exec would blame a folder it may not enter
        return _refuse(console, program, errno.ENOENT)
    try:
        command = Command(console, job)
    except OSError as error:
        return _refuse(console, program, error.errno or errno.EACCES)
    return command.run()


def _refuse(console: Console, program: str, code: int) -> int:
    console.send(STDERR, f"testbed sandbox: {program}: {os.strerror(code)}\n".encode())
    return _NOT_FOUND if code == errno.ENOENT else _NOT_EXECUTABLE


def power_off() -> NoReturn:
    """End everything, bring all writes to the host's files, and halt."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    os.sync()
    _libc.reboot(_RB_POWER_OFF)
    os._exit(1)


def main() -> NoReturn:
    """Run as PID 1."""
    console = None
    try:
        job = json.loads(Path(sys.argv[1]).read_text())
        make_machine()
        console = Console()
        load_modules(MODULES, os.uname().release)
        console.send(READY)
        code = run_command(console, job)
        os.sync()  # when the host knows the code, its files hold all that was written
        console.send(EXIT, struct.pack("!i", code))
        console.drain()
    except EOFError:
        sys.stderr.write("the host has gone\n")
    except Exception as error:  # PID 1 must not end with an error, or the kernel panics
        sentence = str(error) if isinstance(error, GuestLacks) else f"{type(error).__name__}: {error}"
        sys.stderr.write(f"sandbox: {sentence}\n")
        if console is not None:
            console.send(LACKS, sentence.encode())
            console.drain()
    power_off()


if __name__ == "__main__":
    main()
