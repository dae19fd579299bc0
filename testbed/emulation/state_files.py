"""State files: what a run leaves outside its capsule, written down before it is made, and removed if it is orphaned.

A run has two files in the runtime folder: `<id>.json` names everything, and the run's owner holds a lock on
`<id>.lock` as long as it lives. The files name processes, control groups and folders; networks die with the capsule.
What a file says is done only where it can be proved: the file is ours alone and named after its run, a process has
the start that was written down, a group lies where this run's groups do.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from testbed.emulation.cgroups import CgroupUnavailable, is_group_of, remove_ancestors, remove_group
from testbed.emulation.host_lock import HOST_LOCK
from testbed.emulation.own_files import open_folder, open_own, read_own, write_own
from testbed.emulation.processes import ProcessId, process_status
from testbed.emulation.runtime_folder import runtime_folder, socket_path
from testbed.errors import EnvironmentLacks
from testbed.strict_yaml import shown

SOCKET_NAME_CHARACTERS = 32  # for the names of the sockets in a run's folder
_KILL_WAIT_S = 2.0
_REMOVE_WAIT_S = 20.0  # for all groups of a run together
_LOCK_ATTEMPTS = 20
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_FILES = re.compile(r"\.(?P<new>.*)\.\d+\.new|(?P<id>.*)\.(?:json|lock)", re.DOTALL)
_MOST_PID = 2**22  # PID_MAX_LIMIT in linux/threads.h


class _Missing(EnvironmentLacks):
    """There is no such state file."""


@dataclass(frozen=True)
class Record:
    """The content of a run's state file. Paths are absolute; pids are the host's, not the capsule's."""

    run_id: str
    owner: ProcessId
    boot_id: str
    init: ProcessId | None = None
    processes: tuple[ProcessId, ...] = ()
    cgroups: tuple[str, ...] = ()
    socket_folder: str | None = None
    run_folder: str | None = None

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """From the file's text; raises ValueError for anything else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error

    def doubt(self, stem: str) -> str | None:
        """Why the file `<stem>.json` cannot be as we wrote it; None if it can."""
        if self.run_id != stem or _RUN_ID.fullmatch(stem) is None:
            return f"its run_id is {shown(self.run_id)}"
        others = (process for process in (self.init, *self.processes) if process is not None)
        for least, process in ((1, self.owner), *((2, process) for process in others)):
            if not least <= process.pid <= _MOST_PID:
                return f"{shown(process.pid)} is no pid of a run's process"
        if any("\0" in path for path in (*self.cgroups, self.socket_folder or "", self.run_folder or "")):
            return "a path in it has a zero byte"
        return None


class StateFile:
    """The state file of one living run.

    The owner makes it outside the capsule (`create`). Inside, `attach` gives the controller the same file, and the
    controller records what it is about to make. Each `record` is on disk, atomically, when it returns.
    """

    def __init__(self, folder: Path, record: Record, lock: int | None) -> None:
        self.folder = folder
        self.current = record
        self._lock = lock

    @classmethod
    def create(
        cls, run_id: str | None = None, run_folder: Path | None = None, *, folder: Path | None = None
    ) -> StateFile:
        """Take a run's lock, write its first record and make its socket folder; this process is the owner."""
        folder = runtime_folder() if folder is None else folder
        run_id = new_run_id() if run_id is None else run_id
        socket_path(folder / run_id, "x" * SOCKET_NAME_CHARACTERS)
        if not _RUN_ID.fullmatch(run_id):
            raise EnvironmentLacks(f"{run_id!r} cannot name a run: use letters, digits and _ . + -")
        for _ in range(_LOCK_ATTEMPTS):
            lock = _try_lock(folder / f"{run_id}.lock", create=True)
            if lock is not None or (folder / f"{run_id}.json").exists():
                break
            time.sleep(_KILL_WAIT_S / _LOCK_ATTEMPTS)  # a `clean` is just looking at our new lock file
        if lock is None:
            raise EnvironmentLacks(f"a run named {run_id} is already going on ({folder / run_id}.lock is held)")
        path = str(run_folder.absolute()) if run_folder is not None else None
        sockets = folder / run_id
        owner = ProcessId.of(os.getpid())
        state = cls(folder, Record(run_id, owner, _boot_id(), socket_folder=str(sockets), run_folder=path), lock)
        state._write()
        try:
            sockets.mkdir(mode=0o700)
        except OSError as error:
            raise EnvironmentLacks(f"cannot make the folder {sockets} for sockets: {error.strerror}") from error
        return state

    @classmethod
    def attach(cls, path: Path) -> StateFile:
        """The state file of the run that this process belongs to; the lock stays with the owner."""
        return cls(path.parent, _load(path), None)

    @property
    def path(self) -> Path:
        """The state file's path."""
        return self.folder / f"{self.current.run_id}.json"

    @property
    def sockets(self) -> Path:
        """The folder for this run's sockets, `<runtime folder>/<id>`, mode 0700."""
        return self.folder / self.current.run_id

    def record(self, **changes: Any) -> None:
        """Replace fields of the record and write it.

        `cgroups` are paths; `init` (PID 1 of the capsule) and `processes` (all others to end) are pids of this host.
        A pid that is gone already is left out. The owner and the controller may do this at the same time.
        """
        with self._reading_and_writing():
            recorded = {name: _recordable(name, value) for name, value in changes.items()}
            self.current = replace(_load(self.path), **recorded)
            self._write()

    def add_process(self, pid: int, **changes: Any) -> None:
        """Replace fields as `record` does, and add a process of this host to those to end."""
        with self._reading_and_writing():
            present = _load(self.path)
            recorded = {name: _recordable(name, value) for name, value in changes.items()}
            added = _recordable("processes", [pid])
            self.current = replace(present, processes=(*present.processes, *added), **recorded)
            self._write()

    @contextlib.contextmanager
    def _reading_and_writing(self) -> Iterator[None]:
        """Keep every other process from changing records of this folder meanwhile."""
        with open_folder(self.folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # until the descriptor is closed
            yield

    def close(self) -> None:
        """Forget the run. The owner calls this after everything recorded is gone; nothing recorded is removed here."""
        self.path.unlink(missing_ok=True)
        if self._lock is not None:
            (self.folder / f"{self.current.run_id}.lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> StateFile:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything recorded; raises EnvironmentLacks when something resists, and then the record stays."""
        failures = take_away(self).failures
        if failures:
            raise EnvironmentLacks("; ".join(failures))

    def _write(self) -> None:
        temporary = self.folder / f".{self.current.run_id}.{os.getpid()}.new"
        write_own(temporary, self.current.to_json())
        os.replace(temporary, self.path)


@dataclass
class CleanReport:
    """What `clean` did: runs and paths removed, processes killed, runs left alone, and what went wrong."""

    removed_runs: list[str] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    removed_paths: list[str] = field(default_factory=list)
    living_runs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def find_live(run_folder: Path, folder: Path | None = None) -> Record | None:
    """The record of the run that is now writing to `run_folder`, or None."""
    folder = runtime_folder() if folder is None else folder
    for path in folder.glob("*.json"):
        try:
            record = _load(path)
        except EnvironmentLacks:  # it has finished since we looked; or it is broken, which `clean` reports
            continue
        if record.run_folder == str(run_folder.absolute()) and _owner_alive(record):
            return record
    return None


def clean(folder: Path | None = None) -> CleanReport:
    """Remove what runs without a living owner have left: processes, cgroups, socket folders, half-written files.

    Safe beside starting and running runs: a run's lock is taken, without waiting, before its file is believed. Safe
    beside other users: what they may have planted is reported and left alone.
    """
    folder = runtime_folder() if folder is None else folder
    report = CleanReport()
    with open_folder(folder) as place:
        found = [_FILES.fullmatch(name) for name in os.listdir(place) if name != HOST_LOCK.name]
        for run_id in sorted({match["id"] or match["new"] or "" for match in found if match is not None}):
            if _RUN_ID.fullmatch(run_id) is None:
                report.failures.append(f"{folder} has files named after {shown(run_id)}, which names no run")
                continue
            try:
                _clean_one(run_id, folder, place, report)
            except (EnvironmentLacks, OSError) as error:
                report.failures.append(str(error))
    return report


def _clean_one(run_id: str, folder: Path, place: int, report: CleanReport) -> None:
    path = folder / f"{run_id}.json"
    lock = _try_lock(_lock_file(path), create=True, folder=place)
    if lock is None:
        report.living_runs.append(run_id)
        return
    try:
        try:
            record = _load(path, place)
        except _Missing:  # it has finished since we looked, or died before it made anything
            _forget(run_id, place)
            return
        if _owner_alive(record):
            report.living_runs.append(run_id)
        elif _take_away(record, folder, place, report):
            _forget(run_id, place)
            report.removed_runs.append(run_id)
    finally:
        os.close(lock)


def _forget(run_id: str, place: int) -> None:
    """Remove a run's files, its lock last, so that whoever comes next finds either everything or nothing."""
    half = [name for name in os.listdir(place) if (match := _FILES.fullmatch(name)) and match["new"] == run_id]
    for name in (*half, f"{run_id}.json", f"{run_id}.lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place)


def take_away(state: StateFile) -> CleanReport:
    """For a run's owner at the end: remove everything recorded, then the state file itself."""
    report = CleanReport()
    try:
        with open_folder(state.folder) as place:
            with contextlib.suppress(_Missing):  # someone removed the file; what it named is still to be removed
                state.current = _load(state.path, place)
            record = state.current
            if _take_away(record, state.folder, place, report):
                state.close()
                _forget(record.run_id, place)
                report.removed_runs.append(record.run_id)
    except EnvironmentLacks as error:
        report.failures.append(str(error))
    return report


def new_run_id() -> str:
    """A short id, practically unique on this host, that can name folders and cgroups."""
    return f"{time.strftime('%m%d%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def _take_away(record: Record, folder: Path, place: int, report: CleanReport) -> bool:
    """Remove everything recorded; returns True when nothing is left."""
    failures: list[str] = []
    if record.boot_id == _boot_id():
        doomed = [process for process in (record.init, *record.processes) if process is not None]
        killed = [process for process in doomed if process.kill()]
        report.killed += [process.pid for process in killed]
        deadline = time.monotonic() + _KILL_WAIT_S
        while any(process.alive() for process in killed) and time.monotonic() < deadline:
            time.sleep(0.01)
    deadline = time.monotonic() + _REMOVE_WAIT_S
    for name in record.cgroups:
        path = Path(name)
        if not os.path.lexists(path):
            continue
        if not is_group_of(path, record.run_id):
            failures.append(f"{shown(name)} is not removed: it is no control group of run {record.run_id}")
            continue
        try:
            remove_group(path, max(0.1, min(5.0, deadline - time.monotonic())))
            report.removed_paths.append(name)
        except CgroupUnavailable as error:
            failures.append(str(error))
    for path in {Path(name) for name in record.cgroups}:  # a run may die between making a folder and its groups
        if is_group_of(path, record.run_id):
            remove_ancestors(path)
    if record.socket_folder is not None:
        if record.socket_folder != str(folder / record.run_id):
            wrong = shown(record.socket_folder)
            failures.append(f"{wrong} is not removed: it is not the socket folder of run {record.run_id}")
        else:
            _remove_sockets(folder / record.run_id, place, report, failures)
    report.failures += failures
    return not failures


def _remove_sockets(path: Path, place: int, report: CleanReport, failures: list[str]) -> None:
    """Remove a run's socket folder, looked up in its open parent and never through a link."""
    try:
        shutil.rmtree(path.name, dir_fd=place)
        report.removed_paths.append(str(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        failures.append(f"{path} is not removed: {error.strerror or error}")


def _lock_file(state_file: Path) -> Path:
    return state_file.parent / state_file.name.replace(".json", ".lock")


def _owner_alive(record: Record) -> bool:
    return record.boot_id == _boot_id() and record.owner.alive()


def _load(path: Path, folder: int | None = None) -> Record:
    """The record in a state file; raises EnvironmentLacks where it is missing or cannot be believed."""
    try:
        record = Record.from_json(read_own(path, folder=folder).decode())
        doubt = record.doubt(path.name.removesuffix(".json"))
    except FileNotFoundError as error:
        raise _Missing(f"the state file {path} is gone") from error
    except ValueError as error:
        doubt = " ".join(str(error).split())
    if doubt is not None:
        raise EnvironmentLacks(f"the state file {path} cannot be read ({doubt}): remove it by hand")
    return record


def _try_lock(path: Path, *, create: bool, folder: int | None = None) -> int | None:
    """An open, locked descriptor; None when someone else holds the lock, or when, without `create`, it is not there.

    Raises EnvironmentLacks where what lies there cannot be a lock of ours.
    """
    name = path if folder is None else path.name
    while True:
        try:
            descriptor = open_own(path, create=create, folder=folder)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:  # someone removed it between our opening and our locking
            if not create:
                os.close(descriptor)
                return None
        os.close(descriptor)


def _recordable(name: str, value: Any) -> Any:
    """A value as the record holds it: pids become processes, paths become text."""
    if isinstance(value, list | tuple):
        return tuple(found for each in value if (found := _recordable(name, each)) is not None)
    if name in ("init", "processes") and isinstance(value, int):
        status = process_status(value)
        return None if status is None else ProcessId(value, status[1])
    return str(value) if isinstance(value, Path) else value


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
