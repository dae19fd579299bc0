"""Emulation tests in guests: cgroup v2, netem on a Linux bridge and on the kernel's Open vSwitch, and none of it.

A guest has one core, so two of them are up side by side. Tests that judge time (`quiet`) are tried again when they fail
while both are busy; any other must pass at once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from guest_tests import GUESTS, Guest
from guests import Sandbox, user

SIDE_BY_SIDE = 2
ATTEMPTS = 3  # the guests share the host's cores, and a core that others have for milliseconds costs a link rate
GUEST_S = 1100.0  # for all attempts of one kind of guest, on a host whose memory others use up


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
    """What pytest said in the guest if tests failed, those that judge time every time; None when each passed."""
    wanted, deadline = [f"tests/emulation/{name}" for name in guest.tests], time.monotonic() + GUEST_S
    said = ""
    for attempt in range(ATTEMPTS):
        try:
            done = sandbox.run(
                *guest.command(["-m", "quiet", *wanted] if attempt else wanted), options=["--memory", "4G"],
                env={"TESTBED_TEST_SWITCH": guest.switch}, patience_s=deadline - time.monotonic(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return f"{said}{(late.stdout or b'').decode()}\nnot done after {GUEST_S:.0f} s"
        now = done.stdout.decode() + done.stderr.decode()
        if attempt and " deselected" in now:
            break
        if done.returncode == 0:
            return None
        said += now
        wanted = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", now, re.MULTILINE)
        if not wanted:
            break
    return said


@pytest.mark.timeout(2 * GUEST_S + 60)
@pytest.mark.parametrize("name", GUESTS)
def test_the_emulation_tests_pass_in_a_guest(name: str, guests: dict[str, Future[str | None]]) -> None:
    complaint = guests[name].result()
    if complaint is not None:
        pytest.fail(complaint, pytrace=False)
