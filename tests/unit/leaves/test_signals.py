"""Signals that ask a process to end, while it imports modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HIDDEN = """
import signal
class Named:
    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGTERM)
class Owner:
    named = Named()
done = True
"""
DROPPED = """
import signal, weakref
class Held: ...
held = Held()
kept = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGTERM))
del held
done = True
"""
PROGRAM = """
import time
from testbed.signals import interrupt_at_signals
interrupt_at_signals()
try:
    import interrupted
    for _ in range(500):
        time.sleep(0.01)
except KeyboardInterrupt:
    print(interrupted.done)
"""


@pytest.mark.parametrize("module", [HIDDEN, DROPPED])
def test_a_signal_that_comes_during_an_import_is_obeyed_after_it(module: str, tmp_path: Path) -> None:
    """The interpreter hides what is raised in a `__set_name__`, and drops what is in a callback."""
    (tmp_path / "interrupted.py").write_text(module)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}){PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)
