"""The emulation tests that guests are told to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from guest_tests import GUESTS

ROOT = Path(__file__).resolve().parents[3]


def test_every_test_that_a_guest_is_told_to_run_is_there() -> None:
    wanted = [f"tests/emulation/{name}" for guest in GUESTS.values() for name in guest.tests]
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q"]
    done = subprocess.run([*pytest, *wanted], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
