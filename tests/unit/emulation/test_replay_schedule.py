"""The schedule of a replay: every change of every link, in order, found as it is asked for."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation.replayer import ReplayedLink, schedule
from testbed.traces import Change, Trace, TraceSet
from testbed.traces.series import Series

RATES = st.integers(1, 5).map(lambda n: n * 1e6)
ROWS = st.lists(st.tuples(st.integers(0, 8).map(float), RATES), min_size=1, max_size=8)
ENDS = st.sampled_from(["hold", "loop", "stop"])
OTHERWISE_BPS = 7e6


def link(name: str, series: Series) -> ReplayedLink:
    return ReplayedLink((name, "up"), None, f"{name}-eth0", series, OTHERWISE_BPS)


@given(st.lists(st.tuples(ROWS, ENDS), min_size=1, max_size=4))
def test_the_schedule_has_the_changes_that_the_traces_have(drawn: list[tuple[list[tuple[float, float]], str]]) -> None:
    traces = TraceSet(tuple(
        Trace(tuple(Change(t, f"link/l{n}", "up", v) for t, v in rows), end, None if end == "hold" else 9.0)  # type: ignore[arg-type]
        for n, (rows, end) in enumerate(drawn)
    ))  # fmt: skip
    links = [link(f"l{n}", trace.series[f"link/l{n}", "up"]) for n, trace in enumerate(traces.traces)]
    wanted = [
        (change.time_s, int(change.target.removeprefix("link/l")), change.value or OTHERWISE_BPS)
        for change in traces.changes_between(0.0, 30.0)
    ]
    assert list(islice(schedule(links), len(wanted))) == wanted
    assert all(due > 30 for due, _, _ in islice(schedule(links), len(wanted), len(wanted) + 1))


def test_an_endless_schedule_is_made_only_as_far_as_it_is_needed() -> None:
    links = [link(f"l{n}", Series(((0.0, 1e6), (0.5, 2e6)), 1.0)) for n in range(100)]
    found = list(islice(schedule(links), 250))
    assert [due for due, _, _ in found] == [0.5] * 100 + [1.0] * 100 + [1.5] * 50


def test_an_outage_at_the_beginning_is_a_change_because_links_work_before() -> None:
    out, slow = link("a", Series(((0.0, 0.0), (0.5, 2e6)))), link("b", Series(((0.0, 1e6), (0.5, 2e6))))
    assert list(schedule([out, slow])) == [(0.0, 0, 0.0), (0.5, 0, 2e6), (0.5, 1, 2e6)]


def test_a_link_knows_what_it_should_have_been_in_a_while_and_at_most() -> None:
    made = link("a", Series(((1.0, 1e6), (2.0, 9e6), (3.0, None))))
    assert list(made.rates(0.0, 0.5)) == [OTHERWISE_BPS]
    assert list(made.rates(1.5, 3.0)) == [1e6, 9e6, OTHERWISE_BPS]
    assert made.most_bps == 9e6
    assert link("b", Series(((1.0, 1e6),))).most_bps == OTHERWISE_BPS
