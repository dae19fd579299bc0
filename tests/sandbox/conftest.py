"""Sandbox tests need User-Mode Linux and nothing else, root least of all: here they run or they fail.

As root they run the sandbox as the user nobody, so that what is shown holds for everyone; a skip is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
PATIENCE_S = 240.0  # one core, and others' work on it
NOT_SKIPPED = "a sandbox test may not be skipped, User-Mode Linux must be here (script/setup test installs it)"


@dataclass(frozen=True)
class Sandbox:
    """The command `testbed sandbox` as a user without rights, with a home of its own."""

    home: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of its commands; no byte code, which root could leave in the tree."""
        return os.environ | {"HOME": str(self.home), "TMPDIR": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def uid(self) -> int:
        """Whose rights the commands have."""
        return NOBODY if os.geteuid() == 0 else os.geteuid()

    def command(self, options: Sequence[str], arguments: Sequence[str | Path]) -> list[str]:
        """The command line; as root, through setpriv."""
        unprivileged = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
        testbed = [sys.executable, "-m", "testbed", "sandbox", "--share-host", *options, "--", *map(str, arguments)]
        return [*(unprivileged if os.geteuid() == 0 else []), *testbed]

    def start(self, *arguments: str | Path, options: Sequence[str] = ("--memory", "512M")) -> subprocess.Popen[bytes]:
        """Start a command in a guest; its streams are pipes."""
        return subprocess.Popen(
            self.command(options, arguments), cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, *arguments: str | Path, options: Sequence[str] = ("--memory", "512M"), input: bytes = b"",
        cwd: Path = ROOT, env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        """Run a command in a guest to its end."""
        return subprocess.run(
            self.command(options, arguments), cwd=cwd, env=self.env | (env or {}), input=input, capture_output=True,
            timeout=PATIENCE_S,
        )  # fmt: skip

    def left_behind(self) -> list[str]:
        """Files in its folder for temporary things, and host processes of guests that were started from it."""
        guests = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._is_of_a_guest(entry)]
        return [path.name for path in (*self.home.glob("headroom-sandbox-*"), *guests)]

    def _is_of_a_guest(self, process: Path) -> bool:
        try:
            return f"init={self.home}/".encode() in (process / "cmdline").read_bytes()
        except OSError:
            return False


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox with a fresh home, which must be empty of its traces in the end."""
    home = Path(tempfile.mkdtemp(prefix="hr-sandbox-"))
    home.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    made = Sandbox(home)
    yield made
    left = made.left_behind()
    shutil.rmtree(home, ignore_errors=True)
    assert not left


@pytest.fixture(autouse=True)
def needs_uml() -> None:
    """Fail in one sentence where the test could only fail in many."""
    from testbed.emulation.sandbox import lacking

    missing = lacking()
    if missing is not None:
        pytest.fail(missing, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a test's skip into a failure."""
    report: Any = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{NOT_SKIPPED}: {reason}"
    return report
