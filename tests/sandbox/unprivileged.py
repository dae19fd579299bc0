"""`testbed sandbox` as a user without rights would start it, and what it leaves behind."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOBODY = 65534
PATIENCE_S = 280.0  # one core, and others' work on it
NAMESPACES = ("net", "pid", "mnt", "user", "cgroup")


def namespaces(process: Path) -> set[str]:
    """The namespaces a process is in, by its folder in /proc."""
    return {os.readlink(process / "ns" / kind) for kind in NAMESPACES}


def as_user(uid: int) -> list[str]:
    """The prefix that starts a command as this user; nothing when that is the present one."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"] if uid != os.geteuid() else []


@functools.cache
def user() -> int:
    """Whose rights the commands have: the caller's, as root the tree's owner's or nobody's, where they can read it."""
    if os.geteuid() != 0:
        return os.geteuid()
    uid = ROOT.stat().st_uid or NOBODY
    readable = subprocess.run([*as_user(uid), sys.executable, "-c", "import testbed"], cwd="/", capture_output=True)
    return uid if readable.returncode == 0 else 0


@dataclass(frozen=True)
class Sandbox:
    """The command `testbed sandbox` as a user without rights, with a home of its own."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands; no byte code, which root could leave in the tree."""
        return os.environ | {"HOME": str(self.home), "TMPDIR": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, options: Sequence[str], arguments: Sequence[str | Path]) -> list[str]:
        """The command line."""
        testbed = [sys.executable, "-m", "testbed", "sandbox", "--share-host", *options, "--", *map(str, arguments)]
        return [*as_user(user()), *testbed]

    def start(self, *arguments: str | Path, options: Sequence[str] = ("--memory", "512M")) -> subprocess.Popen[bytes]:
        """Start a command in a guest; its streams are pipes."""
        return subprocess.Popen(
            self.command(options, arguments), cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, *arguments: str | Path, options: Sequence[str] = ("--memory", "512M"), input: bytes = b"",
        cwd: Path = ROOT, env: dict[str, str] | None = None, patience_s: float = PATIENCE_S,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        """Run a command in a guest to its end."""
        return subprocess.run(
            self.command(options, arguments), cwd=cwd, env=self.env | (env or {}), input=input, capture_output=True,
            timeout=patience_s,
        )  # fmt: skip

    def left_behind(self) -> list[str]:
        """Files in its folder for temporary things, and host processes of guests that were started from it."""
        return [path.name for path in (*self.home.glob("headroom-sandbox-*"), *self.guests())]

    def guests(self) -> list[Path]:
        """The folders in /proc of the host processes that its guests are made of."""
        return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_of_a_guest(entry)]

    def _is_of_a_guest(self, process: Path) -> bool:
        try:
            return f"init={self.home}/".encode() in (process / "cmdline").read_bytes()
        except OSError:
            return False
