"""Where a run's sockets and state files live, and the lock that makes emulated runs queue.

Knows users, folders and their limits; what is written there is `state`'s business.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed.emulation.own_files import open_own
from testbed.errors import EnvironmentLacks

RUNTIME_VARIABLE = "TESTBED_RUNTIME_DIR"
MAX_SOCKET_PATH = 107  # sun_path in unix(7), less its closing zero
HOST_LOCK = Path("/run/lock/headroom-testbed.lock")
_POLL_S = 0.2


def outer_uid() -> int:
    """The user id outside of a capsule's user namespace (where everyone seems to be root)."""
    uid = os.geteuid()
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def runtime_folder() -> Path:
    """The folder for sockets and state files, made with mode 0700: $TESTBED_RUNTIME_DIR, /run/headroom as root, else
    $XDG_RUNTIME_DIR/headroom, else /tmp/headroom-<uid>. Raises EnvironmentLacks if it is not ours alone."""
    uid, chosen, session = outer_uid(), os.environ.get(RUNTIME_VARIABLE), os.environ.get("XDG_RUNTIME_DIR")
    if chosen:
        folder = Path(chosen).absolute()
    elif uid == 0:
        folder = Path("/run/headroom")
    elif session and Path(session).is_dir():
        folder = Path(session, "headroom")
    else:
        folder = Path(f"/tmp/headroom-{uid}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EnvironmentLacks(
            f"cannot make the runtime folder {folder}: {error.strerror}; set {RUNTIME_VARIABLE} to a folder of yours"
        ) from error
    status = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise EnvironmentLacks(
            f"the runtime folder {folder} is not a folder that only you can enter (mode 0700): remove it, or set "
            f"{RUNTIME_VARIABLE} to another"
        )
    return folder


def socket_path(folder: Path, name: str) -> Path:
    """`folder/name` as a Unix socket's address; raises EnvironmentLacks when the kernel could not take it."""
    path = folder / name
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise EnvironmentLacks(
            f"the socket path {path} has {length} characters and a Unix socket takes at most {MAX_SOCKET_PATH}: set "
            f"{RUNTIME_VARIABLE} to a shorter folder"
        )
    return path


@contextlib.contextmanager
def host_lock(on_wait: Callable[[str], None] | None = None, *, path: Path = HOST_LOCK) -> Iterator[None]:
    """One emulated run at a time on this host, whoever's it is. Waiting can be interrupted; `on_wait` is told once,
    with a sentence naming the holder, before it begins."""
    descriptor = _open_host_lock(path)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if on_wait is not None and not told:
                    holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
                    holder = holder if holder.isascii() and holder.isdigit() else "unknown"  # any user may write there
                    on_wait(f"waiting for another emulated run on this host to finish (pid {holder}, {path})")
                    told = True
                time.sleep(_POLL_S)
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _open_host_lock(path: Path) -> int:
    """The lock's file, which any user may have made; the runtime folder's own where its folder is missing."""
    for candidate in (path, runtime_folder() / path.name):
        for _ in range(3):  # opened without O_CREAT first: fs.protected_regular refuses that on others' files
            with contextlib.suppress(FileNotFoundError):
                try:
                    return open_own(candidate, any_user=True)
                except EnvironmentLacks as error:
                    raise EnvironmentLacks(f"the host lock {error}, or use --share-host") from error
            try:
                descriptor = os.open(candidate, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            except OSError:
                break
            os.fchmod(descriptor, 0o666)  # whatever the umask: every user's runs queue here
            return descriptor
    raise EnvironmentLacks(
        f"cannot open the host lock {path}: make it a plain file with mode 0666, or use --share-host"
    )
