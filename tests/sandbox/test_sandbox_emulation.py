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
from dataclasses import dataclass
from pathlib import Path

import pytest
from guests import Sandbox, user

SIDE_BY_SIDE = 2
ATTEMPTS = 3  # the guests share the host's cores, and a core that others have for milliseconds costs a link rate
GUEST_S = 1100.0  # for all attempts of one kind of guest, on a host whose memory others use up
TEST_S = 480.0  # for one test: a run's start alone takes a guest 10 s, of the host half a minute when it is busy
# The kernel then has no netem, and finds no module: that of the host's /lib/modules are another kernel's.
WITHOUT_NETEM = ("sh", "-c", 'rmmod sch_netem && exec "$@"', "sh")


@dataclass(frozen=True)
class Guest:
    """What a guest has, and the emulation tests to be run in it; each takes it ten to thirty seconds."""

    switch: str
    netem: bool
    tests: tuple[str, ...]

    def command(self, tests: list[str]) -> list[str]:
        """Pytest in the guest."""
        pytest = [user().python, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-o", f"timeout={TEST_S:g}"]
        return [*(() if self.netem else WITHOUT_NETEM), *pytest, *tests]


MIGRATION, NETEM, END = "test_run_migration.py", "test_fidelity_netem.py", "test_run_end.py"
ABORTED = f"{MIGRATION}::test_a_move_that_cannot_be_completed_is_aborted_and_no_token_is_lost"
SHAPING = (
    "test_tcp_gets_what_headers_leave_of_the_rate",
    "test_halving_the_rate_in_mid_transfer_keeps_the_queue_and_the_transfer",
    "test_a_queue_that_waits_for_a_slow_rate_wakes_up_when_the_rate_rises",
    "test_an_outage_holds_everything_back_and_its_end_lets_it_through",
    "test_the_kernel_holds_the_rate_that_was_asked_for[123456784]",
    "test_a_delay_is_either_imposed_or_refused_with_the_way_out",
)
KILLED = "test_killing_what_the_user_started_ends_the_run_and_clean_takes_away_only_what_it_left"
INTERRUPTED = "test_ctrl_c_cleans_up_by_itself"
CHECKPOINT = "test_run_tokens.py::test_a_checkpoint_saved_by_transformers_decodes_as_there_over_four_devices[staged]"
LEDGER = "test_the_ledger_is_what_the_blocks_should_take_before_and_after_half_of_them_have_moved[layer by layer]"
OVERLOADED = "test_a_fixed_placement_that_a_device_cannot_hold_ends_the_run_and_leaves_nothing"
SHAPES = "test_run_shapes.py::test_a_run_on_any_shape_gives_the_references_bits_over_shaped_links"
GUESTS = {
    "netem, linuxbridge": Guest("linuxbridge", True, (
        MIGRATION, "test_cgroups.py", *(f"test_shaping.py::{name}" for name in SHAPING), CHECKPOINT,
        f"{NETEM}::test_held_messages_agree_with_netem_token_by_token",
        f"test_run_memory.py::{LEDGER}",
        f"test_run_memory.py::{OVERLOADED}[killed by the kernel]",
        f"{END}::{KILLED}[mininet]", f"{END}::{INTERRUPTED}[while it generates-mininet]",
    )),
    "netem, openvswitch": Guest("openvswitch", True, (
        f"{NETEM}::test_each_direction_is_delayed_by_what_was_asked_within_half_a_millisecond",
        f"{NETEM}::test_each_direction_loses_what_was_asked_within_binomial_bounds",
        f"{NETEM}::test_another_share_of_loss_would_be_noticed",
        "test_openvswitch.py::test_a_run_on_open_vswitch_gives_the_references_bits_and_leaves_nothing[two-tier]",
        "test_openvswitch.py::test_links_keep_their_rates_through_open_vswitch",
        "test_openvswitch.py::test_a_killed_run_takes_its_switch_daemons_along",
    )),
    "no netem, linuxbridge": Guest("linuxbridge", False, (
        ABORTED, f"{SHAPES}[ring]",
        "test_run_shapes.py::test_a_message_through_other_devices_takes_their_links_delays_and_least_rate",
        "test_run_shapes.py::test_loss_and_jitter_need_netem_and_are_never_left_out",
        f"{END}::test_killing_the_process_inside_ends_the_run_which_says_so_and_cleans_up[mininet]",
    )),
}  # fmt: skip


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
