"""The folder in which runs keep their sockets and state files, and the socket addresses in it.

It knows users, folders and their limits. `state_files` knows what is written there.
"""

from __future__ import annotations

import os
from pathlib import Path

from testbed.errors import EnvironmentLacks
from testbed.transport.addresses import MAX_SOCKET_PATH

RUNTIME_VARIABLE = "TESTBED_RUNTIME_DIR"


def outer_uid() -> int:
    """The user id outside of a capsule's user namespace, in which everyone seems to be root."""
    uid = os.geteuid()
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def runtime_folder() -> Path:
    """The folder for sockets and state files, made with mode 0700; raises EnvironmentLacks if it is not ours alone.

    It is $TESTBED_RUNTIME_DIR, as root /run/headroom, else $XDG_RUNTIME_DIR/headroom, else /tmp/headroom-<uid>.
    """
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
    """`folder/name` as a Unix socket's address; raises EnvironmentLacks when it is too long for the kernel."""
    path = folder / name
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise EnvironmentLacks(
            f"the socket path {path} has {length} characters and a Unix socket takes at most {MAX_SOCKET_PATH}: set "
            f"{RUNTIME_VARIABLE} to a shorter folder"
        )
    return path
