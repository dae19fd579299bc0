"""A device's memory limit and, if asked for, its share of a CPU, as a control group of cgroup v1 or v2.

It knows files under the cgroup mounts and nothing of models or placements. Every group lies in our own hierarchy
`headroom/<run>/<device>`; nothing outside it is ever limited, emptied or removed. Sources: the kernel's
admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.errors import EnvironmentLacks

HIERARCHY = "headroom"
UNLIMITED = -1
CPU_PERIOD_S = 0.1  # the kernel's default period, always written, so that quotas mean the same everywhere
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_RETRY_S = 0.01


class CgroupUnavailable(EnvironmentLacks):
    """A control group could not be made, written, read or removed."""


@dataclass(frozen=True)
class CgroupMode:
    """How this machine can limit memory. With `version` None it cannot, and `reason` says why and what to do.

    `headroom/` is made below `memory_root`, and for quotas below `cpu_root`, which is None if there is no CPU
    controller.
    """

    version: Literal["v1", "v2"] | None
    reason: str
    memory_root: Path | None = None
    cpu_root: Path | None = None

    @property
    def enforced(self) -> bool:
        """Whether memory limits can be enforced here."""
        return self.version is not None


def detect() -> CgroupMode:
    """Find a memory controller by trying it: make a probe group, give it a limit and a process, and remove it.

    The v1 memory hierarchy comes first where one is mounted, because a controller lives in one version only. On v2
    without root, a delegated ancestor of the own group is needed.
    """
    mounts = list(_mounts())
    v1_memory = _v1_mount(mounts, "memory")
    if v1_memory is not None:
        mode = CgroupMode("v1", f"cgroup v1 memory hierarchy at {v1_memory}", v1_memory, _v1_mount(mounts, "cpu"))
        refusal = _probe(mode)
        if refusal is None:
            return mode
        return CgroupMode(None, f"{refusal}; cgroup v1 memory limits need root")
    v2_mount = next((mount for mount, kind, _ in mounts if kind == "cgroup2"), None)
    if v2_mount is None:
        return CgroupMode(
            None, "no cgroup file system with a memory controller is mounted: mount cgroup2 at /sys/fs/cgroup"
        )
    refusal = "no cgroup v2 folder at hand offers the memory controller"
    for root in _v2_candidates(v2_mount):
        if "memory" not in _words(root / "cgroup.controllers"):
            continue
        cpu = root if "cpu" in _words(root / "cgroup.controllers") else None
        mode = CgroupMode("v2", f"cgroup v2 below {root}", root, cpu)
        answer = _probe(mode)
        if answer is None:
            return mode
        refusal = answer
    return CgroupMode(
        None,
        f"{refusal}; without root a delegated cgroup is needed: start it with "
        "`systemd-run --user --scope -p Delegate=yes …`",
    )


@dataclass(frozen=True)
class DeviceCgroup:
    """One device's group. It can be pickled, so that a process can join by itself. Sizes are bytes."""

    version: Literal["v1", "v2"]
    memory_path: Path
    cpu_path: Path | None = None

    @classmethod
    def planned(cls, mode: CgroupMode, run_id: str, device: str, *, quota: bool = False) -> DeviceCgroup:
        """The group as it will be, before it is made, so that the state file can name its `paths()` first."""
        if mode.version is None or mode.memory_root is None:
            raise CgroupUnavailable(f"cannot limit the memory of device {device}: {mode.reason}")
        if quota and mode.cpu_root is None:
            raise CgroupUnavailable(
                f"cannot give device {device} a CPU quota: no cgroup cpu controller at hand; use compute: paced"
            )
        for name in (run_id, device):
            if not _SAFE_NAME.fullmatch(name):
                raise CgroupUnavailable(f"{name!r} cannot name a cgroup: use letters, digits and _ . + -")
        inside = Path(HIERARCHY, run_id, device)
        separate_cpu = quota and mode.cpu_root is not None and mode.version == "v1"
        cpu = mode.cpu_root / inside if separate_cpu and mode.cpu_root is not None else None
        memory = mode.memory_root / inside
        return cls(mode.version, memory, memory if quota and cpu is None else cpu)

    @classmethod
    def create(cls, mode: CgroupMode, run_id: str, device: str, *, quota: bool = False) -> DeviceCgroup:
        """Make the group and its ancestors in `headroom/`; raises CgroupUnavailable."""
        group = cls.planned(mode, run_id, device, quota=quota)
        for path in group.paths():
            _make(path, group.version, cpu=quota)
        return group

    def paths(self) -> tuple[Path, ...]:
        """Every folder of this group, one per hierarchy."""
        if self.cpu_path in (None, self.memory_path):
            return (self.memory_path,)
        assert self.cpu_path is not None
        return (self.memory_path, self.cpu_path)

    def add(self, pid: int = 0) -> None:
        """Move a process in; 0 is the caller. What it has allocated before stays charged where it was."""
        for path in self.paths():
            _write(path / "cgroup.procs", str(pid), "so the device's memory limit would not hold")

    def set_limit(self, limit_bytes: int) -> int:
        """Limit memory, without any swap on top; returns the limit that the kernel holds, rounded to pages.

        Raises CgroupUnavailable when it is refused. Below the present use, v1 refuses with EBUSY.
        """
        value = str(limit_bytes)
        if self.version == "v2":
            _write(self.memory_path / "memory.max", "max" if limit_bytes == UNLIMITED else value)
            swap = self.memory_path / "memory.swap.max"
            if swap.exists():
                _write(swap, "0")
            return self.limit()
        plain, with_swap = self.memory_path / "memory.limit_in_bytes", self.memory_path / "memory.memsw.limit_in_bytes"
        order = [plain]
        if with_swap.exists():  # it must not be below the plain limit, so a rise begins with it
            present = self.limit()
            rises = limit_bytes == UNLIMITED or UNLIMITED < present < limit_bytes
            order = [with_swap, plain] if rises else [plain, with_swap]
        for path in order:
            _write(path, value, when_busy="lower the use first (a squeeze is a ballast, not a lower limit)")
        return self.limit()

    def limit(self) -> int:
        """The memory limit in force; UNLIMITED if there is none."""
        if self.version == "v2":
            text = _read(self.memory_path / "memory.max").strip()
            return UNLIMITED if text == "max" else int(text)
        value = int(_read(self.memory_path / "memory.limit_in_bytes"))
        return UNLIMITED if value >= 2**63 - _PAGE else value

    def usage(self) -> int:
        """All memory charged to the group, which the limit counts: anonymous memory, page cache, kernel memory."""
        name = "memory.current" if self.version == "v2" else "memory.usage_in_bytes"
        return int(_read(self.memory_path / name))

    def anon(self) -> int:
        """Anonymous memory: `rss` on v1 (which includes huge pages: `rss_huge` would count them twice), `anon` on v2.

        The kernel folds per-CPU counts in lazily. For at most two seconds after a change the figure may be off by up to
        `anon_slack_bytes()`.
        """
        name = "anon" if self.version == "v2" else "rss"
        return _keyed(self.memory_path / "memory.stat", name)

    def oom_kills(self) -> int:
        """Processes of this group that the kernel has killed for lack of memory."""
        name = "memory.events" if self.version == "v2" else "memory.oom_control"
        return _keyed(self.memory_path / name, "oom_kill")

    def reached_limit(self) -> bool:
        """Whether the group's use has come to its limit so far; if not, nothing in it was killed for memory."""
        if self.version == "v2":
            return _keyed(self.memory_path / "memory.events", "max") > 0
        peak = int(_read(self.memory_path / "memory.max_usage_in_bytes"))  # Linux 6.18 no longer counts in failcnt
        return peak + anon_slack_bytes() >= self.limit() > UNLIMITED

    def set_quota(self, share: float, period_s: float = CPU_PERIOD_S) -> None:
        """Let the group use `share` of one CPU in every period; the share may exceed 1."""
        if self.cpu_path is None:
            raise CgroupUnavailable(f"{self.memory_path} was made without a CPU quota: create it with quota=True")
        quota, period = round(share * period_s * 1e6), round(period_s * 1e6)
        if self.version == "v2":
            _write(self.cpu_path / "cpu.max", f"{quota} {period}")
        else:
            _write(self.cpu_path / "cpu.cfs_period_us", str(period))
            _write(self.cpu_path / "cpu.cfs_quota_us", str(quota))

    def kill_and_remove(self, timeout: float = 5.0) -> None:
        """Kill what is inside and remove the group, and the run's folder when this was its last group."""
        for path in self.paths():
            remove_group(path, timeout)
            remove_ancestors(path)


def anon_slack_bytes() -> int:
    """How far `anon()` may lag: 64 pages per CPU (MEMCG_CHARGE_BATCH in linux/memcontrol.h)."""
    return 64 * (os.cpu_count() or 1) * _PAGE


def remove_group(path: Path, timeout: float = 5.0) -> int:
    """Kill every process in one device's group and remove it; returns how many were killed.

    Refuses paths that are not `…/headroom/<run>/<device>`. A group that is gone already is fine.
    """
    if path.parent.parent.name != HIERARCHY or ".." in path.parts:
        raise CgroupUnavailable(f"{path} is not removed: it is no …/{HIERARCHY}/<run>/<device>")
    killed: set[int] = set()
    deadline = time.monotonic() + timeout
    while path.exists():
        with contextlib.suppress(OSError):
            pids = {int(line) for line in (path / "cgroup.procs").read_text().split()}
            for pid in pids - {0, os.getpid()}:  # 0: it lives in a PID namespace that we cannot look into
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        try:
            path.rmdir()
        except FileNotFoundError:
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise CgroupUnavailable(
                    f"cannot remove {path}: {error.strerror} {timeout:g} s after its processes were killed; "
                    "end what is inside (cgroup.procs names it) and run testbed clean"
                ) from error
            time.sleep(_RETRY_S)
    return len(killed)


def is_group_of(path: Path, run_id: str) -> bool:
    """Whether a path is a device's group of this run: `…/headroom/<run>/<device>` on cgroupfs, without links."""
    named = path.parts[-3:-1] == (HIERARCHY, run_id) and _SAFE_NAME.fullmatch(path.name) is not None
    if not named or not path.is_absolute() or path != path.resolve():
        return False
    # Of two mounts at one place the later one counts.
    holding = [(len(mount.parts), n, kind) for n, (mount, kind, _) in enumerate(_mounts()) if mount in path.parents]
    return bool(holding) and max(holding)[2] in ("cgroup", "cgroup2")


def remove_ancestors(path: Path) -> None:
    """Remove the run's folder and `headroom` itself where they have become empty."""
    for folder in (path.parent, path.parent.parent):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # another device's or another run's group is in there
            return


def _mounts() -> Iterator[tuple[Path, str, set[str]]]:
    """(mount point, type, super options) of every mount; see proc(5) on mountinfo."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        yield Path(left.split()[4].encode().decode("unicode_escape")), kind, set(options.split(","))


def _v1_mount(mounts: list[tuple[Path, str, set[str]]], controller: str) -> Path | None:
    return next((mount for mount, kind, options in mounts if kind == "cgroup" and controller in options), None)


def _v2_candidates(mount: Path) -> list[Path]:
    """The mount's root, then the own group and its ancestors from the nearest up."""
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "/")
    group = mount / own.strip("/")
    ancestors = [folder for folder in (group, *group.parents) if folder.is_relative_to(mount) and folder != mount]
    return [mount, *ancestors]


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _probe(mode: CgroupMode) -> str | None:
    """Make, limit, enter and remove a group; returns the kernel's refusal, or None."""
    guest = None
    name = f"probe-{secrets.token_hex(6)}"  # not the pid: every run is number 1 in its capsule
    group = DeviceCgroup.planned(mode, name, "probe")
    try:
        group = DeviceCgroup.create(mode, name, "probe")
        guest = subprocess.Popen(["sleep", "10"], stdin=subprocess.DEVNULL)
        group.add(guest.pid)
        group.set_limit(2**26)
    except (CgroupUnavailable, OSError) as refusal:
        return str(refusal)
    finally:
        if guest is not None:
            guest.kill()
            guest.wait()
        with contextlib.suppress(CgroupUnavailable):
            group.kill_and_remove(timeout=1.0)
    return None


def _make(path: Path, version: str, *, cpu: bool) -> None:
    """Make `…/headroom/<run>/<device>` and, on v2, delegate the controllers to it."""
    run_folder, hierarchy = path.parent, path.parent.parent
    for attempt in range(10):
        try:
            for folder in (hierarchy, run_folder, path):
                if version == "v2":
                    _hand_down(folder.parent, cpu=cpu)
                folder.mkdir(exist_ok=True)
            return
        except FileNotFoundError:  # a finishing run has just removed the empty `headroom`
            if attempt == 9:
                raise CgroupUnavailable(f"cannot make {path}: {hierarchy.parent} is gone; mount it again") from None
        except OSError as error:
            raise CgroupUnavailable(
                f"cannot make {path}: {error.strerror}; run as root or below a delegated cgroup"
            ) from error


def _hand_down(folder: Path, *, cpu: bool) -> None:
    wanted = {"memory", "cpu"} if cpu else {"memory"}
    missing = sorted(wanted - _words(folder / "cgroup.subtree_control"))
    if missing:
        remedy = "processes in that folder must move to a child first, or delegate another (systemd: Delegate=yes)"
        _write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in missing), remedy)


def _write(
    path: Path, value: str, remedy: str = "testbed doctor shows what this machine can do", when_busy: str = ""
) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        if not path.parent.parent.is_dir():
            raise
        raise CgroupUnavailable(f"cannot write {value} to {path}: No such file or directory; {remedy}") from None
    except OSError as error:
        if error.errno == errno.EBUSY and when_busy:
            remedy = when_busy
        raise CgroupUnavailable(f"cannot write {value} to {path}: {error.strerror}; {remedy}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise CgroupUnavailable(
            f"cannot read {path}: {error.strerror}; the group was removed, or the kernel lacks this file"
        ) from error


def _keyed(path: Path, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    raise CgroupUnavailable(f"{path} has no line {key!r}: the kernel must be 4.13 or newer")
