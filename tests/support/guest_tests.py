"""The emulation tests that are run in guests, by the kind of guest."""

from __future__ import annotations

from dataclasses import dataclass

from guests import user

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


NETEM, END = "test_fidelity_netem.py", "test_run_end.py"
MIGRATION = "test_run_migration.py::test_a_layers_heads_move_at_the_links_rate_and_survive_its_halving"
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
LEDGER = "test_the_ledger_is_what_the_blocks_should_take_before_and_after_half_of_them_have_moved[layer by layer]"
OVERLOADED = "test_a_fixed_placement_that_a_device_cannot_hold_ends_the_run_and_leaves_nothing"
SHAPES = "test_run_shapes.py::test_a_run_on_any_shape_gives_the_references_bits_over_shaped_links"
GUESTS = {
    "netem, linuxbridge": Guest("linuxbridge", True, (
        MIGRATION, "test_cgroups.py", *(f"test_shaping.py::{name}" for name in SHAPING),
        f"{NETEM}::test_held_messages_agree_with_netem_token_by_token", "test_wrong_links.py",
    )),
    "netem, linuxbridge, whole runs": Guest("linuxbridge", True, (
        f"test_run_memory.py::{LEDGER}", f"test_run_memory.py::{OVERLOADED}[killed by the kernel]",
        f"{END}::{KILLED}[mininet]", f"{END}::{INTERRUPTED}[while it generates-mininet]",
        "test_wifi.py::test_a_run_on_a_wifi_gives_the_references_bits",
    )),
    "netem, openvswitch": Guest("openvswitch", True, (
        f"{NETEM}::test_each_direction_is_delayed_by_what_was_asked_within_half_a_millisecond",
        f"{NETEM}::test_each_direction_loses_what_was_asked_within_binomial_bounds",
        f"{NETEM}::test_delays_of_each_direction_vary_as_was_asked_or_somewhat_less",
        f"{NETEM}::test_another_share_of_loss_would_be_noticed",
        "test_openvswitch.py::test_a_run_on_open_vswitch_gives_the_references_bits_and_leaves_nothing[two-tier]",
        "test_openvswitch.py::test_links_keep_their_rates_through_open_vswitch_and_change_them",
        "test_openvswitch.py::test_a_killed_run_takes_its_switch_daemons_along",
    )),
    "no netem, linuxbridge": Guest("linuxbridge", False, (
        f"{SHAPES}[ring]",
        "test_run_shapes.py::test_a_message_through_other_devices_takes_their_links_delays_and_least_rate",
        "test_run_shapes.py::test_loss_and_jitter_need_netem_and_are_never_left_out",
        f"{END}::test_killing_the_process_inside_ends_the_run_which_says_so_and_cleans_up[mininet]",
    )),
}  # fmt: skip
