"""What the tests of run states share: a runtime folder, and a process that nobody may end."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A runtime folder with a path short enough for sockets (pytest's own are not)."""
    with tempfile.TemporaryDirectory(prefix="hr-") as made:
        yield Path(made)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that must not be ended."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            yield process
            assert process.poll() is None, "a stranger's process was ended"
        finally:
            process.kill()
