"""The trace model: what is in force when, under each end rule."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import ConfigError
from testbed.traces import Change, Trace, TraceSet, summarise

UP = ("link/b", "up")


def up_trace(*rows: tuple[float, float], end: str = "hold", period: float | None = None, name: str = "t") -> Trace:
    changes = tuple(Change(time, "link/b", "up", value) for time, value in rows)
    return Trace(changes, end=end, period=period, name=name)  # type: ignore[arg-type]


def up_at(trace: Trace, time: float) -> float | None:
    return TraceSet((trace,)).at(time).get(UP)


def up_changes(trace: Trace, after: float, until: float) -> list[tuple[float, float | None]]:
    return [(c.time_s, c.value) for c in TraceSet((trace,)).changes_between(after, until)]


def test_a_value_holds_from_its_row_over_the_gap_to_the_next_one():
    trace = up_trace((5, 1e6), (900, 2e6))
    assert [up_at(trace, t) for t in (0, 4.999, 5, 899.9, 900, 1e9)] == [None, None, 1e6, 1e6, 2e6, 2e6]


def test_of_rows_with_the_same_time_target_and_quantity_the_last_wins():
    trace = up_trace((0, 1e6), (3, 9e6), (3, 4e6))
    assert trace.changes == (Change(0, "link/b", "up", 1e6), Change(3, "link/b", "up", 4e6))


def test_a_loop_returns_to_the_first_values_at_its_last_rows_time():
    trace = up_trace((0, 1e6), (4, 2e6), (10, 3e6), end="loop")
    assert trace.period == 10
    assert [up_at(trace, t) for t in (0, 4, 9.9, 10, 14, 20, 104)] == [1e6, 2e6, 2e6, 1e6, 2e6, 1e6, 2e6]
    assert up_changes(trace, 0, 24) == [(4, 2e6), (10, 1e6), (14, 2e6), (20, 1e6), (24, 2e6)]


def test_a_given_period_lets_the_last_row_of_a_loop_hold_until_the_lap_ends():
    trace = up_trace((0, 1e6), (10, 3e6), end="loop", period=12)
    assert up_changes(trace, 0, 24) == [(10, 3e6), (12, 1e6), (22, 3e6), (24, 1e6)]


def test_a_looping_series_that_starts_late_gives_the_topology_its_value_back_at_each_lap():
    trace = up_trace((3, 1e6), end="loop", period=10)
    assert up_changes(trace, -1, 14) == [(3, 1e6), (10, None), (13, 1e6)]
    assert up_at(trace, 11) is None


def test_after_a_stop_nothing_is_in_force_and_the_return_is_a_change_to_none():
    trace = up_trace((0, 1e6), (10, 2e6), end="stop", period=15)
    assert up_changes(trace, -1, 100) == [(0, 1e6), (10, 2e6), (15, None)]
    assert [up_at(trace, t) for t in (14.9, 15, 50)] == [2e6, None, None]
    assert TraceSet((trace,)).next_change_after(15) is None


def test_a_stop_without_a_period_is_at_the_last_row():
    assert up_changes(up_trace((0, 1e6), (10, 2e6), end="stop"), 0, 100) == [(10, None)]


def test_rows_that_repeat_the_value_in_force_are_no_changes():
    trace = up_trace((0, 1e6), (2, 1e6), (4, 2e6), (6, 1e6), end="loop", period=8)
    assert up_changes(trace, 0, 16) == [(4, 2e6), (6, 1e6), (12, 2e6), (14, 1e6)]
    constant = TraceSet((up_trace((0, 1e6), (1, 1e6), end="loop", period=1e-3 + 1),))
    assert constant.next_change_after(0) is None
    assert constant.changes_between(0, 1e9) == []


def test_the_next_change_is_the_earliest_of_all_series_and_is_found_in_the_next_lap():
    loop = up_trace((0, 1e6), (4, 2e6), end="loop", period=10)
    memory = Trace((Change(0, "device/c", "memory", 100), Change(17, "device/c", "memory", 50)))
    both = TraceSet((loop, memory))
    assert [both.next_change_after(t) for t in (-1, 0, 4, 10, 14, 17)] == [0, 4, 10, 14, 17, 20]
    assert both.targets() == ("device/c", "link/b")
    assert TraceSet().next_change_after(0) is None


def test_changes_come_by_time_then_target_then_quantity():
    rows = (Change(1, "link/b", "up", 1), Change(1, "link/b", "down", 1), Change(1, "device/z", "memory", 1))
    found = TraceSet((Trace(rows),)).changes_between(0, 1)
    assert [(c.target, c.quantity) for c in found] == [("device/z", "memory"), ("link/b", "down"), ("link/b", "up")]


def test_two_traces_may_not_drive_the_same_quantity_of_the_same_target():
    with pytest.raises(ConfigError, match="traces first and second both drive up of link/b"):
        TraceSet((up_trace((0, 1), name="first"), up_trace((5, 1), name="second")))


TIMES = st.one_of(
    st.integers(0, 60).map(float), st.floats(0, 60, allow_nan=False).map(lambda t: round(t, 2)), st.floats(0, 60)
)
ROWS = st.lists(
    st.tuples(TIMES, st.sampled_from(["link/b", "link/c"]), st.sampled_from(["up", "down"]), st.integers(0, 3)),
    min_size=1,
    max_size=8,
)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    changes = tuple(Change(time, target, quantity, float(value)) for time, target, quantity, value in draw(ROWS))
    end = draw(st.sampled_from(["hold", "loop", "stop"]))
    last = max(change.time_s for change in changes)
    # Long enough for eight steps, by the rule on loops that nothing could replay.
    period = None if end == "hold" else max(last, 0.05) + draw(st.sampled_from([0.0, 0.1, 1 / 3, 7.0]))
    return Trace(changes, end=end, period=period)


@given(traces(), st.floats(-1, 200), st.floats(0, 20))
def test_replaying_the_changes_reproduces_the_values_in_force_under_every_end_rule(trace, after, length):
    if trace.period is not None and trace.period < 0.5:
        length *= trace.period  # not thousands of laps
    both = TraceSet((trace,))
    values = both.at(after)
    moments = []
    for change in both.changes_between(after, after + length):
        assert after < change.time_s <= after + length
        key = (change.target, change.quantity)
        assert values.get(key) != change.value, "a change must change something"
        if change.value is None:
            del values[key]
        else:
            values[key] = change.value
        assert both.at(change.time_s).get(key) == change.value
        moments.append(change.time_s)
    assert values == both.at(after + length)
    following = both.next_change_after(after)
    if moments:
        assert following == moments[0]
    else:
        assert following is None or following > after + length


@given(traces(), st.integers(0, 500), st.integers(0, 7))
def test_every_lap_of_a_loop_is_like_the_first_one(trace, lap, index):
    row = trace.changes[index % len(trace.changes)]
    if trace.end != "loop" or row.time_s >= trace.period:
        return
    both = TraceSet((trace,))
    in_lap = min(lap * trace.period + row.time_s, (lap + 1) * trace.period)
    if in_lap == (lap + 1) * trace.period and lap:
        return  # too near to the lap's end for a float to tell them apart
    starts = [lap * trace.period + c.time_s for c in trace.changes if c.time_s > row.time_s]
    if in_lap in starts:
        return  # too near to the next row
    assert both.at(in_lap) == both.at(row.time_s)


@given(traces())
def test_a_trace_survives_json(trace):
    both = TraceSet((trace,))
    assert TraceSet.from_dict(json.loads(json.dumps(both.to_dict()))) == both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(-1, "link/b", "up", 1), "-1 is not a time"),
        (Change(float("nan"), "link/b", "up", 1), "nan is not a time"),
        (Change(0, "cable/b", "up", 1), "'cable/b' is not a target"),
        (Change(0, "link/b", "memory", 1), "link/b has no quantity 'memory'"),
        (Change(0, "link/b", "up", -1), "up of link/b cannot be -1"),
        (Change(0, "link/b", "loss", 1.5), "at most 1"),
        (Change(0, "device/b", "compute", 0), "compute of device/b cannot be 0"),
        (Change(0, "device/b", "streaming", 0), "streaming of device/b cannot be 0"),
        (Change(0, "link/b", "up", None), "has no value"),
    ],
)
def test_a_row_out_of_range_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Trace((change,), name="mine")


def test_zero_memory_rate_delay_and_loss_are_allowed():
    rows = [("device/b", "memory"), ("link/b", "up"), ("link/b", "up_delay"), ("link/b", "loss")]
    Trace(tuple(Change(0, target, quantity, 0) for target, quantity in rows))


@pytest.mark.parametrize(
    ("end", "period", "message"),
    [
        ("loop", None, "end: loop needs a period, because the last row is at time 0"),
        ("stop", None, "end: stop needs a period"),
        ("loop", 0, "a period of 0 is not possible"),
        ("loop", float("inf"), "a period of inf is not possible"),
        ("hold", 4, "means nothing with end: hold"),
        ("forever", None, "'forever' is not an end rule"),
    ],
)
def test_a_period_that_cannot_be_is_refused(end, period, message):
    with pytest.raises(ConfigError, match=message):
        up_trace((0, 1), end=end, period=period)
    with pytest.raises(ConfigError, match=r"a period of 3 is not possible.*last row, 5"):
        up_trace((0, 1), (5, 2), end="loop", period=3)


def test_a_trace_without_rows_and_a_mapping_that_is_none_are_refused():
    with pytest.raises(ConfigError, match="has no rows"):
        Trace(())
    with pytest.raises(ConfigError, match="a trace is a mapping with the keys name, end, period, changes"):
        Trace.from_dict({"rows": []})
    with pytest.raises(ConfigError, match="changes must be rows of"):
        Trace.from_dict({"name": "x", "end": "hold", "period": None, "changes": [[0, "link/b"]]})


def test_a_summary_weighs_the_mean_by_how_long_each_value_holds():
    held = up_trace((0, 100), (40, 20), (72, 50))
    (one,) = summarise(held)
    assert (one.count, one.min, one.max, one.start, one.end) == (3, 20, 100, 0, 72)
    assert one.mean == pytest.approx((40 * 100 + 32 * 20) / 72)
    assert summarise(held, until=96)[0].mean == pytest.approx((40 * 100 + 32 * 20 + 24 * 50) / 96)
    (loop,) = summarise(up_trace((0, 1), (10, 99), end="loop"))
    assert (loop.mean, loop.max, loop.end) == (1, 1, 10)
    assert summarise(up_trace((3, 7e6)))[0].mean == 7e6
    assert one.text(50e6) == "50 Mbit/s"
