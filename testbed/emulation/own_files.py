"""Files that only this user can have written, opened without following links.

Other users may plant a link, a pipe, a folder, a file of theirs or a second name of another file. All of these are
refused with one sentence, so that nothing of others' is ever read, written, locked or believed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import EnvironmentLacks
from testbed.files import kind_of

LARGEST_BYTES = 4 * 2**20


def open_own(path: Path, *, create: bool = False, folder: int | None = None, any_user: bool = False) -> int:
    """A descriptor, for reading and writing, of a regular file of ours that has one name.

    `folder` is the open descriptor of its folder where that must not be looked up again; `any_user` allows a file of
    another user. Raises FileNotFoundError, and EnvironmentLacks for anything else that lies there.
    """
    name = path if folder is None else path.name
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    if create:
        flags |= os.O_CREAT
    try:
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EnvironmentLacks(f"{path} {_obstacle(name, folder) or f'cannot be opened: {error.strerror}'}") from error
    why = not_ours(os.fstat(descriptor), any_user)
    if why is not None:
        os.close(descriptor)
        raise EnvironmentLacks(f"{path} {why}: remove it")
    return descriptor


def read_own(path: Path, *, folder: int | None = None) -> bytes:
    """The content of a file of ours; raises as `open_own` does."""
    with os.fdopen(open_own(path, folder=folder), "rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise EnvironmentLacks(f"{path} has over {LARGEST_BYTES} bytes, which none of ours has: remove it")
    return content


def write_own(path: Path, content: str) -> None:
    """Write a new file of ours in place of what lies there under its name; raises EnvironmentLacks."""
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(content)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise EnvironmentLacks(f"{path} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """A descriptor of a folder that nobody else can write to; raises EnvironmentLacks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentLacks(f"the runtime folder {path} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise EnvironmentLacks(f"the runtime folder {path} is not one that only you can write to: remove it")
        yield descriptor
    finally:
        os.close(descriptor)


def not_ours(status: os.stat_result, any_user: bool = False) -> str | None:
    """Why only we cannot have written this file, as the rest of a sentence; None if it can be ours."""
    if not stat.S_ISREG(status.st_mode):
        return f"is {kind_of(status.st_mode)}, not a file"
    if status.st_uid != os.geteuid() and not any_user:
        return f"belongs to user {status.st_uid}"
    if status.st_nlink > 1:
        return f"is one of {status.st_nlink} names of a file (hard links)"
    return None


def _obstacle(name: Path | str, folder: int | None) -> str | None:
    try:
        why = not_ours(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return None
    return None if why is None else f"{why}: remove it"
