"""The lock that lets one emulated run at a time use this host, so that no run disturbs the figures of another.

It knows one file and who holds its lock, and nothing of runs.
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
from testbed.emulation.runtime_folder import runtime_folder
from testbed.errors import EnvironmentLacks

HOST_LOCK = Path("/run/lock/headroom-testbed.lock")
WAITING = "waiting for"  # the sentence given to `on_wait` begins with these words
_POLL_S = 0.2


@contextlib.contextmanager
def host_lock(on_wait: Callable[[str], None] | None = None, *, path: Path = HOST_LOCK) -> Iterator[None]:
    """Let one emulated run at a time use this host, whichever user's it is.

    Waiting can be interrupted. Before it begins, `on_wait` is called once with a sentence that names the holder.
    """
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
    """Who holds this file's lock, by proc_locks(5). Any user may write into the file, or hold it without a run."""
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
    """Open the lock's file, which any user may have made; where its folder is missing, one in the runtime folder."""
    for candidate in (path, runtime_folder() / path.name):
        for _ in range(3):  # first without O_CREAT, which fs.protected_regular refuses on others' files
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
            os.fchmod(descriptor, 0o666)  # whatever the umask, because every user's runs queue here
            return descriptor
    raise EnvironmentLacks(
        f"cannot open the host lock {path}: make it a plain file with mode 0666, or use --share-host"
    )
