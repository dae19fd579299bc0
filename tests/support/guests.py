"""Starts `testbed sandbox` as a user without rights, and finds what it leaves behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unprivileged import NOBODY, ROOT, User, without_rights

PATIENCE_S = 280.0  # the guest has one core, which it shares
NAMESPACES = ("net", "pid", "mnt", "user", "cgroup")


def namespaces(process: int | Path) -> set[str]:
    """The namespaces a process is in."""
    return {os.readlink(Path("/proc", str(process), "ns", kind)) for kind in NAMESPACES}


def own_groups() -> set[str]:
    """The control groups on this host that belong to the user of the commands, who can make no others."""
    found = set()
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        with suppress(FileNotFoundError):  # others' groups go meanwhile
            if os.stat(folder).st_uid == user().uid:
                found.add(folder)
    return found


def user() -> User:
    """The user of the commands: the caller, or if that is root, the owner of the tree or nobody."""
    return without_rights(ROOT.stat().st_uid or NOBODY if os.geteuid() == 0 else os.geteuid())


@dataclass(frozen=True)
class Sandbox:
    """The command `testbed sandbox` as a user without rights, with a home of its own."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands."""
        return os.environ | user().env | {"HOME": str(self.home), "TMPDIR": str(self.home)}

    def testbed(self, *arguments: str | Path) -> list[str | Path]:
        """A command of `testbed`, to be run in a guest."""
        return [user().python, "-m", "testbed", *arguments]

    def command(self, options: Sequence[str], arguments: Sequence[str | Path]) -> list[str]:
        """The command line."""
        sandbox = self.testbed("sandbox", "--share-host", *options, "--", *arguments)
        return [*user().prefix, *map(str, sandbox)]

    def start(self, *arguments: str | Path, options: Sequence[str] = ("--memory", "512M")) -> subprocess.Popen[bytes]:
        """Start a command in a guest; its streams are pipes."""
        return subprocess.Popen(
            self.command(options, arguments), cwd=user().root, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, *arguments: str | Path, options: Sequence[str] = ("--memory", "512M"), input: bytes = b"",
        cwd: Path | None = None, env: dict[str, str] | None = None, patience_s: float = PATIENCE_S,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        """Run a command in a guest to its end."""
        return subprocess.run(
            self.command(options, arguments), cwd=cwd or user().root, env=self.env | (env or {}), input=input,
            capture_output=True, timeout=patience_s,
        )  # fmt: skip

    def left_behind(self) -> list[str]:
        """Files in its folder for temporary files, and host processes of the guests that were started from it."""
        return [path.name for path in (*self.home.glob("headroom-sandbox-*"), *self.guests())]

    def guests(self) -> list[Path]:
        """The folders in /proc of the host processes of its guests."""
        return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_of_a_guest(entry)]

    def namespaces(self) -> list[set[str]]:
        """The namespaces of each of these processes that goes on."""
        found = []
        for guest in self.guests():
            with suppress(OSError):  # it has ended, which the kernel tells in several ways
                found.append(namespaces(guest))
        return found

    def _is_of_a_guest(self, process: Path) -> bool:
        try:
            return f"init={self.home}/".encode() in (process / "cmdline").read_bytes()
        except OSError:
            return False
