"""Emulation tests in guests: cgroup v2, netem on a Linux bridge and on the kernel's Open vSwitch, and none of it.

A guest has one core, so two of them are up side by side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from guest_tests import GUESTS, Guest
from guests import Sandbox, user

SIDE_BY_SIDE = 2
GUEST_S = 1100.0  # for one kind of guest, on a host whose memory others use up


@pytest.fixture(scope="module")
def guests() -> Iterator[dict[str, Future[str | None]]]:
    """What is wrong with the emulation tests in each kind of guest, in the end; the first two are started at once."""
    home = Path(tempfile.mkdtemp(prefix="hr-sandbox-"))
    home.chmod(0o755)
    os.chown(home, user().uid, -1)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {name: pool.submit(complaints, Sandbox(home), guest) for name, guest in GUESTS.items()}
    shutil.rmtree(home, ignore_errors=True)


def complaints(sandbox: Sandbox, guest: Guest) -> str | None:
    """What pytest said in the guest if a test failed; None when each passed."""
    tests = [f"tests/emulation/{name}" for name in guest.tests]
    try:
        done = sandbox.run(
            *guest.command(tests), options=["--memory", "4G"], env={"TESTBED_TEST_SWITCH": guest.switch},
            patience_s=GUEST_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return f"{(late.stdout or b'').decode()}\nnot done after {GUEST_S:.0f} s"
    return None if done.returncode == 0 else done.stdout.decode() + done.stderr.decode()


@pytest.mark.timeout(2 * GUEST_S + 60)
@pytest.mark.parametrize("name", GUESTS)
def test_the_emulation_tests_pass_in_a_guest(name: str, guests: dict[str, Future[str | None]]) -> None:
    complaint = guests[name].result()
    if complaint is not None:
        pytest.fail(complaint, pytrace=False)
