"""When other processes took the host's cores from a run, and who is named for it."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.controller.host_contention import contention, windows

Row = dict[str, Any]


def host(first: int, others: float, idle: float, span_s: float = 2.0, cores: int = 2, last: int | None = None) -> Row:
    return {"first_step": first, "last_step": first + 7 if last is None else last, "span_s": span_s, "cores": cores,
            "others_share": others, "idle_share": idle}  # fmt: skip


def wait(device: str, first: int, wait_s: float) -> Row:
    return {"device": device, "first": first, "last": first + 7, "wait_s": wait_s, "span_s": 2.0}


def test_a_host_that_is_idle_or_busy_with_the_run_itself_is_not_taken() -> None:
    assert contention([host(0, 0.01, 0.84), host(8, 0.10, 0.02)], []) == ([], [])


@pytest.mark.parametrize(
    ("others", "idle", "is_taken"),
    [(0.85, 0.0, True), (0.26, 0.09, True), (0.26, 0.11, False), (0.24, 0.0, False), (0.5, 0.35, False)],
)
def test_it_is_taken_where_others_use_much_and_leave_little(others: float, idle: float, is_taken: bool) -> None:
    reasons, _ = contention([host(0, others, idle)], [])
    assert bool(reasons) == is_taken


def test_the_reason_names_the_devices_that_waited_in_the_worst_interval_most_first() -> None:
    rows = [host(0, 0.01, 0.84), host(8, 0.80, 0.05), host(16, 0.86, 0.0)]
    waits = [wait("a", 8, 1.9), wait("a", 16, 0.06), wait("b", 16, 0.12), wait("c", 16, 0.0)]
    [reason], notes = contention(rows, waits)
    assert notes == []
    assert reason.startswith("other processes took 86 % of this host's 2 cores in tokens 16-23 and left less than 10 %")
    assert "in 2 of 3 intervals" in reason
    assert "waited for a core meanwhile: device b 6 %, device a 3 %:" in reason and "device c" not in reason


def test_equal_waits_are_told_in_the_order_of_devices_and_negligible_ones_not_at_all() -> None:
    waits = [wait("d10", 0, 0.0601), wait("d3", 0, 0.0003), wait("d2", 0, 0.0599), wait("d1", 0, 0.0199)]
    [reason], _ = contention([host(0, 0.9, 0.0)], waits)
    assert "waited for a core meanwhile: device d2 3 %, device d10 3 %:" in reason
    [reason], _ = contention([host(0, 0.9, 0.0)], waits[1:2])
    assert "; no device waited for a core for 1 % of that time: stop" in reason


def test_where_the_kernel_does_not_count_waits_the_reason_says_so() -> None:
    [reason], _ = contention([host(0, 0.9, 0.0, cores=1)], [])
    assert "this host's core in" in reason and "the kernel does not say which devices waited" in reason


def test_others_that_leave_enough_are_a_note() -> None:
    reasons, [note] = contention([host(0, 0.02, 0.8), host(8, 0.5, 0.35)], [])
    assert reasons == []
    assert note == "other processes used 50 % of this host's 2 cores in tokens 8-15; enough was left"


def test_short_intervals_are_judged_together_with_the_following() -> None:
    short = [host(8 * number, share, 0.0, span_s=0.4) for number, share in enumerate((0.9, 0.0, 0.2, 0.5))]
    [window] = windows(short)
    assert (window.first, window.last) == (0, 31)
    assert window.span_s == pytest.approx(1.6) and window.others == pytest.approx(0.4)


def test_a_run_of_less_than_a_moment_is_not_judged() -> None:
    assert windows([host(0, 0.9, 0.0, span_s=0.2)]) == []
    assert len(windows([host(0, 0.9, 0.0, span_s=0.2), host(8, 0.9, 0.0, span_s=0.2)])) == 1
    assert windows([]) == [] and contention([], []) == ([], [])


def test_waits_of_joined_intervals_are_added() -> None:
    rows = [host(0, 0.9, 0.0, span_s=0.5), host(8, 0.9, 0.0, span_s=0.5)]
    [reason], _ = contention(rows, [wait("b", 0, 0.01), wait("b", 8, 0.04), wait("b", 16, 5.0)])
    assert "device b 5 %" in reason
