"""Jobs under changing conditions: the share that is done stays done."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.simulation.jobs import Job


def test_half_done_at_half_the_pace_takes_half_as_long_again() -> None:
    job = Job(total_s=10.0, since_s=100.0)
    assert job.end_s == 110.0
    job.change(105.0, 20.0)
    assert job.end_s == pytest.approx(115.0)


def test_an_infinite_total_stands_still_and_loses_nothing() -> None:
    job = Job(10.0, 0.0)
    job.change(4.0, math.inf)
    assert job.end_s == math.inf
    job.change(50.0, 10.0)
    assert job.end_s == pytest.approx(56.0)


def test_what_takes_no_time_is_over_at_once() -> None:
    job = Job(0.0, 3.0)
    assert job.end_s == 3.0
    job.change(3.0, math.inf)
    assert job.end_s == 3.0


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.1, 100)), max_size=8),
)
def test_changes_that_change_nothing_do_not_move_the_end(total: float, changes: list[tuple[float, float]]) -> None:
    job, now = Job(total, 0.0), 0.0
    for gap, _ in changes:
        now = min(now + gap, total)
        job.change(now, total)
    assert job.end_s == pytest.approx(total)


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.1, 100)), min_size=1, max_size=8),
)
def test_the_end_is_where_the_shares_of_all_stretches_add_up_to_one(
    total: float, changes: list[tuple[float, float]]
) -> None:
    job, now, done, current = Job(total, 0.0), 0.0, 0.0, total
    for gap, following in changes:
        if now + gap >= job.end_s:
            break
        done, now, current = done + gap / current, now + gap, following
        job.change(now, following)
    assert job.end_s == pytest.approx(now + (1 - done) * current)
