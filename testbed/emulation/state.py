"""What a run leaves outside its capsule, written down before it is made, and taken away by whoever finds it orphaned.

Knows processes, control groups and folders by name, and nothing of networks (they die with the capsule). Two files
per run in the runtime folder: `<id>.json` names everything, `<id>.lock` is flocked by the run's owner as long as it
lives. Nothing is ever found by a name pattern.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from testbed.emulation.cgroups import CgroupUnavailable, remove_ancestors, remove_group
from testbed.emulation.runtime import host_lock, outer_uid, runtime_folder, socket_path
from testbed.errors import EnvironmentLacks

__all__ = [
    "CleanReport",
    "ProcessId",
    "Record",
    "RunState",
    "clean",
    "find_live",
    "host_lock",
    "new_run_id",
    "outer_uid",
    "runtime_folder",
    "socket_path",
    "stale_states",
    "take_away",
]

SOCKET_NAME_CHARACTERS = 32  # left for the names of the sockets in a run's folder
_KILL_WAIT_S = 2.0
_LOCK_ATTEMPTS = 20
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same number: pid and start (clock ticks)."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process as it is now; raises ProcessLookupError."""
        status = _status(pid)
        if status is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, status[1])

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        status = _status(self.pid)
        return status is not None and status[1] == self.start and status[0] not in "ZX"

    def kill(self) -> bool:
        """SIGKILL it if it is still the same process; the check and the signal go to one pidfd."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):  # EINVAL: gone, and only its session still has the number
                return False
            raise
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


@dataclass(frozen=True)
class Record:
    """What the state file of a run says. Paths are absolute; pids are the host's, not the capsule's."""

    run_id: str
    owner: ProcessId
    boot_id: str
    init: ProcessId | None = None
    processes: tuple[ProcessId, ...] = ()
    cgroups: tuple[str, ...] = ()
    socket_folder: str | None = None
    run_folder: str | None = None

    @property
    def user_namespace(self) -> bool:
        """Whether the capsule has a user namespace of its own, as it does without root."""
        if self.init is None:
            return False
        try:
            return os.readlink(f"/proc/{self.init.pid}/ns/user") != os.readlink("/proc/self/ns/user")
        except OSError:
            return False

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """From the file's text; raises ValueError, KeyError or TypeError on anything else."""
        raw = json.loads(text)
        return cls(
            run_id=raw["run_id"],
            owner=ProcessId(**raw["owner"]),
            boot_id=raw["boot_id"],
            init=ProcessId(**raw["init"]) if raw["init"] else None,
            processes=tuple(ProcessId(**each) for each in raw["processes"]),
            cgroups=tuple(raw["cgroups"]),
            socket_folder=raw["socket_folder"],
            run_folder=raw["run_folder"],
        )


class RunState:
    """The state file of one living run, held by its owner.

    Made outside the capsule (`create`); inside, `attach` gives the same file to the controller, which records what
    it is about to make. Each `record` is on disk, atomically, when it returns.
    """

    def __init__(self, folder: Path, record: Record, lock: int | None) -> None:
        self.folder = folder
        self.current = record
        self._lock = lock

    @classmethod
    def create(
        cls, run_id: str | None = None, run_folder: Path | None = None, *, folder: Path | None = None
    ) -> RunState:
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
            time.sleep(_KILL_WAIT_S / _LOCK_ATTEMPTS)  # a cleaner is just looking at our new lock file
        if lock is None:
            raise EnvironmentLacks(f"a run named {run_id} is already going on ({folder / run_id}.lock is held)")
        path = str(run_folder.absolute()) if run_folder is not None else None
        sockets = folder / run_id
        owner = ProcessId.of(os.getpid())
        state = cls(folder, Record(run_id, owner, _boot_id(), socket_folder=str(sockets), run_folder=path), lock)
        state._write()
        sockets.mkdir(mode=0o700)
        return state

    @classmethod
    def attach(cls, path: Path) -> RunState:
        """The state of the run this process belongs to, from its file; the lock stays with the owner."""
        return cls(path.parent, _load(path), None)

    @property
    def path(self) -> Path:
        """The state file."""
        return self.folder / f"{self.current.run_id}.json"

    @property
    def sockets(self) -> Path:
        """The folder for this run's sockets, `<runtime folder>/<id>`, mode 0700."""
        return self.folder / self.current.run_id

    def record(self, **changes: Any) -> None:
        """Replace fields of the record and write it: `cgroups` (paths), and, as pids of this host, `init` (PID 1 of
        the capsule) and `processes` (all others to end). A pid that is gone already is left out."""
        self.current = replace(_load(self.path), **{name: _recordable(name, value) for name, value in changes.items()})
        self._write()

    def close(self) -> None:
        """Forget the run: for the owner, after everything recorded is gone. Never removes what is recorded."""
        self.path.unlink(missing_ok=True)
        if self._lock is not None:
            (self.folder / f"{self.current.run_id}.lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunState:
        return self

    def __exit__(self, *_: object) -> None:
        """Take away all that is recorded; raises EnvironmentLacks when something resists (its record then stays)."""
        failures = take_away(self).failures
        if failures:
            raise EnvironmentLacks("; ".join(failures))

    def _write(self) -> None:
        temporary = self.folder / f".{self.current.run_id}.{os.getpid()}.new"
        temporary.write_text(self.current.to_json())
        os.replace(temporary, self.path)


@dataclass
class CleanReport:
    """What `clean` did: runs taken away, what was ended and removed, runs left alone, and what went wrong."""

    removed_runs: list[str] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    removed_paths: list[str] = field(default_factory=list)
    living_runs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report in sentences, for a person."""
        told = [f"Removed what run {run} had left." for run in self.removed_runs]
        told += [f"Ended process {pid}." for pid in self.killed]
        told += [f"Removed {path}." for path in self.removed_paths]
        told += [f"Left run {run} alone: it is going on." for run in self.living_runs]
        told += [f"Failed: {failure}." for failure in self.failures]
        return told or ["There was nothing to clean."]


def find_live(run_folder: Path, folder: Path | None = None) -> Record | None:
    """The record of the run that is now writing to `run_folder`, or None."""
    folder = runtime_folder() if folder is None else folder
    for path in folder.glob("*.json"):
        try:
            record = _load(path)
        except EnvironmentLacks:  # finished since we looked; or broken, which `clean` reports
            continue
        if record.run_folder == str(run_folder.absolute()) and _owner_alive(record):
            return record
    return None


def stale_states(folder: Path | None = None) -> list[Record]:
    """Records of runs whose owner no longer lives, oldest id first."""
    folder = runtime_folder() if folder is None else folder
    stale = []
    for path in sorted(folder.glob("*.json")):
        lock = _try_lock(_lock_file(path), create=False)
        if lock is None:
            continue
        try:
            record = _load(path)
            if not _owner_alive(record):
                stale.append(record)
        except EnvironmentLacks:  # `clean` reports it
            continue
        finally:
            os.close(lock)
    return stale


def clean(folder: Path | None = None) -> CleanReport:
    """Take away what runs without a living owner have left: recorded processes, cgroups and socket folders.

    Safe beside starting and running runs: a run's lock is taken, without waiting, before its file is believed.
    """
    folder = runtime_folder() if folder is None else folder
    report = CleanReport()
    stems = {path.name[:-5] for pattern in ("*.json", "*.lock") for path in folder.glob(pattern)}
    for path in (folder / f"{stem}.json" for stem in sorted(stems)):
        run_id = path.name.removesuffix(".json")
        lock = _try_lock(_lock_file(path), create=True)
        if lock is None:
            report.living_runs.append(run_id)
            continue
        try:
            if not path.exists():  # finished since we looked, or died before it had made anything
                _lock_file(path).unlink(missing_ok=True)
                continue
            record = _load(path)
            if _owner_alive(record):
                report.living_runs.append(run_id)
            elif _take_away(record, folder, report):
                path.unlink(missing_ok=True)
                _lock_file(path).unlink(missing_ok=True)
                report.removed_runs.append(run_id)
        except EnvironmentLacks as error:
            report.failures.append(str(error))
        finally:
            os.close(lock)
    return report


def take_away(state: RunState) -> CleanReport:
    """For a run's owner at its end: remove all that is recorded, then the state file itself."""
    report = CleanReport()
    record = state.current = _load(state.path)
    if _take_away(record, state.folder, report):
        state.close()
        report.removed_runs.append(record.run_id)
    return report


def new_run_id() -> str:
    """A short id, unique on this host for all practical purposes, fit for folder and cgroup names."""
    return f"{time.strftime('%m%d%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def _take_away(record: Record, folder: Path, report: CleanReport) -> bool:
    """Remove everything recorded; True when nothing is left."""
    failures: list[str] = []
    if record.boot_id == _boot_id():
        doomed = [process for process in (record.init, *record.processes) if process is not None]
        killed = [process for process in doomed if process.kill()]
        report.killed += [process.pid for process in killed]
        deadline = time.monotonic() + _KILL_WAIT_S
        while any(process.alive() for process in killed) and time.monotonic() < deadline:
            time.sleep(0.01)
    for name in record.cgroups:
        path = Path(name)
        if path.parent.name != record.run_id:
            failures.append(f"{path} is not removed: it is no group of run {record.run_id}")
            continue
        existed = path.exists()
        try:
            remove_group(path)
            remove_ancestors(path)
        except CgroupUnavailable as error:
            failures.append(str(error))
        else:
            report.removed_paths += [name] if existed else []
    if record.socket_folder is not None:
        path = Path(record.socket_folder)
        if path != folder / record.run_id:
            failures.append(f"{path} is not removed: it is not the socket folder of run {record.run_id}")
        elif path.exists():
            shutil.rmtree(path, ignore_errors=True)
            report.removed_paths.append(str(path))
    report.failures += failures
    return not failures


def _lock_file(state_file: Path) -> Path:
    return state_file.parent / state_file.name.replace(".json", ".lock")


def _owner_alive(record: Record) -> bool:
    return record.boot_id == _boot_id() and record.owner.alive()


def _load(path: Path) -> Record:
    try:
        return Record.from_json(path.read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentLacks(f"the state file {path} cannot be read ({error}): remove it by hand") from error


def _try_lock(path: Path, *, create: bool) -> int | None:
    """An open, locked descriptor; None when someone else holds the lock (or, without `create`, it isn't there)."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:  # someone cleaned it away between our opening and our locking
            if not create:
                os.close(descriptor)
                return None
        os.close(descriptor)


def _recordable(name: str, value: Any) -> Any:
    """What callers hand over, as the record holds it: pids become processes, paths become text."""
    if isinstance(value, list | tuple):
        return tuple(found for each in value if (found := _recordable(name, each)) is not None)
    if name in ("init", "processes") and isinstance(value, int):
        status = _status(value)
        return None if status is None else ProcessId(value, status[1])
    return str(value) if isinstance(value, Path) else value


def _status(pid: int) -> tuple[str, int] | None:
    """(state letter, start time in ticks since boot: field 22) from /proc/<pid>/stat, see proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
