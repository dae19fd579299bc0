"""Where a run's sockets and state files live, and the lock that makes emulated runs queue.

Knows users, folders and their limits; what is written there is `state`'s business.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed.emulation.own_files import open_own
from testbed.errors import EnvironmentLacks

RUNTIME_VARIABLE = "TESTBED_RUNTIME_DIR"
MAX_SOCKET_PATH = 107  # sun_path in unix(7), less its closing zero
HOST_LOCK = Path("/run/lock/headroom-testbed.lock")
WAITING = "waiting for"  # what a sentence for `on_wait` begins with
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
                    on_wait(
                        f"{WAITING} another emulated run on this host to finish ({_holder(descriptor)} holds {path}); "
                        "--share-host does not wait"
                    )
                    told = True
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Who holds this file's lock, by proc_locks(5): any user may write into the file, and hold it without a run."""
    status = os.fstat(descriptor)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for words in map(str.split, Path("/proc/locks").read_text().splitlines()):
        if words[1] == "FLOCK" and words[5] == file:
            with contextlib.suppress(FileNotFoundError):
                uid = Path("/proc", words[4]).stat().st_uid
                try:
                    user = pwd.getpwuid(uid).pw_name
                except KeyError:
                    user = str(uid)
                return f"pid {words[4]} of user {user}"
    return "a process that cannot be seen from here"


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
