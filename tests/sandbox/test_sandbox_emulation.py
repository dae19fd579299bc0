"""The emulation tests of runs in guests: cgroup v2 and netem, on a Linux bridge and on the kernel's Open vSwitch.

One guest for each switch, side by side, since a guest has one core; what fails while both are busy is tried again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from unprivileged import Sandbox, user

ATTEMPTS = 3  # the guests share the host's cores, and a core that others have for milliseconds costs a link rate
GUEST_S = 420.0  # for all attempts in guests with one switch
TEST_S = 240.0  # for one test: a run's start alone takes a guest 10 s, of the host half a minute when it is busy
TOKENS, MIGRATION = "emulation/test_run_tokens.py", "emulation/test_run_migration.py"
TESTS = {
    "linuxbridge": (
        TOKENS, MIGRATION, "emulation/test_cgroups.py", "emulation/test_shaping.py",
        "unit/test_emulation_state.py::test_a_leader_that_is_gone_while_its_session_goes_on_is_not_there_to_be_killed",
    ),
    "openvswitch": (
        TOKENS, f"{MIGRATION}::test_a_move_that_cannot_be_completed_is_aborted_and_no_token_is_lost",
        "emulation/test_fidelity_netem.py",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def guests() -> Iterator[dict[str, Future[str | None]]]:
    """What is wrong with the emulation tests on each switch, in the end; the guests are started side by side."""
    home = Path(tempfile.mkdtemp(prefix="hr-sandbox-"))
    home.chmod(0o755)
    os.chown(home, user(), -1)
    with ThreadPoolExecutor(len(TESTS)) as pool:
        yield {switch: pool.submit(complaints, Sandbox(home), switch) for switch in TESTS}
    shutil.rmtree(home, ignore_errors=True)


def complaints(sandbox: Sandbox, switch: str) -> str | None:
    """What pytest said in the guest if tests failed every time, None when each passed."""
    wanted, deadline, said = [f"tests/{name}" for name in TESTS[switch]], time.monotonic() + GUEST_S, ""
    for _ in range(ATTEMPTS):
        left = deadline - time.monotonic()
        try:
            done = sandbox.run(
                sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-o", f"timeout={TEST_S:g}", *wanted,
                options=["--memory", "4G"], env={"TESTBED_TEST_SWITCH": switch}, patience_s=left,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return f"{(late.stdout or b'').decode()}\nnot done after {GUEST_S:.0f} s"
        if done.returncode == 0:
            return None
        said = done.stdout.decode() + done.stderr.decode()
        wanted = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", said, re.MULTILINE) or wanted
    return said


@pytest.mark.timeout(GUEST_S + 60)
@pytest.mark.parametrize("switch", TESTS)
def test_the_emulation_tests_of_runs_pass_in_a_guest(switch: str, guests: dict[str, Future[str | None]]) -> None:
    complaint = guests[switch].result()
    if complaint is not None:
        pytest.fail(complaint, pytrace=False)
