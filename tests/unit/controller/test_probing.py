"""Probes: only of links that nobody has seen lately, and never more than the budget of each link's time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stars import star

from testbed.controller.probing import MOST_S, SHORT_BITS, Probe, ProbeBudget
from testbed.placement.observation import LinkView, Observation

HOPS = [(name, way) for name in "abc" for way in ("up", "down")]
RATES = dict.fromkeys(HOPS, 1e8)


def with_rates(**rates: float) -> Observation:
    return star({name: LinkView(rate, rate, 1e-3, 1e-3) for name, rate in rates.items()})


@given(
    st.floats(0.001, 0.1), st.lists(st.tuples(st.floats(0, 20), st.sets(st.sampled_from(HOPS))), max_size=20),
    st.dictionaries(st.sampled_from("abc"), st.floats(1e5, 1e9)), st.floats(1e5, 1e9),
)  # fmt: skip
def test_probes_stay_within_their_share_of_every_links_time(
    share: float, intervals: list[tuple[float, set[tuple[str, str]]]], rates: dict[str, float], shown_bps: float
) -> None:
    budget, seen, passed_s = ProbeBudget(share), with_rates(**rates), 0.0
    believed = {(name, way): getattr(link, f"{way}_bps") for name, link in seen.links.items() for way in ("up", "down")}
    for interval_s, stale in intervals:
        passed_s += interval_s
        budget.earn(interval_s, believed)
        for probe in budget.choose(seen, stale):
            assert {leg.hop for leg in seen.path(probe.sender, probe.receiver)} & stale
            budget.longer(seen, probe, shown_bps, 0.0)
        assert all(budget.spent_s[hop] <= share * passed_s * (1 + 1e-9) for hop in HOPS)


@given(st.lists(st.tuples(st.floats(0.5, 5), st.floats(0, 3)), min_size=1, max_size=40))
def test_what_a_probe_takes_longer_than_it_should_is_charged_before_the_next_one(
    intervals: list[tuple[float, float]],
) -> None:
    budget, seen, passed_s = ProbeBudget(0.01), star(), 0.0
    for interval_s, late_s in intervals:
        passed_s += interval_s
        budget.earn(interval_s, RATES)
        for probe in budget.choose(seen, HOPS):
            hops = {leg.hop for leg in seen.path(probe.sender, probe.receiver)}
            assert all(budget.spent_s[hop] <= 0.01 * passed_s * (1 + 1e-9) for hop in hops)
            budget.late(hops, late_s)


def test_no_probe_is_sent_where_every_link_has_been_seen() -> None:
    budget = ProbeBudget(0.01)
    budget.earn(100.0, RATES)
    assert budget.choose(star(), []) == []


def test_one_probe_looks_at_two_stale_directions_at_once() -> None:
    budget = ProbeBudget(0.01)
    budget.earn(10.0, RATES)
    assert budget.choose(star(), [("b", "up"), ("c", "down")]) == [Probe("b", "c")]


def test_links_in_doubt_are_looked_at_apart() -> None:
    budget, doubted = ProbeBudget(0.01), [("b", "up"), ("c", "down")]
    budget.earn(10.0, RATES)
    found = budget.choose(star(), doubted, doubted)
    assert {(probe.sender, probe.receiver) for probe in found} == {("b", "a"), ("a", "c")}


def test_nobody_is_asked_to_probe_a_lost_device_and_others_are_probed_without_it() -> None:
    budget = ProbeBudget(0.01)
    budget.earn(10.0, RATES)
    stale = [("a", "up"), ("b", "down"), ("c", "up"), ("c", "down")]
    assert budget.choose(star(), stale, lost={"c"}) == [Probe("a", "b")]


def test_a_link_that_has_earned_too_little_is_not_probed() -> None:
    budget = ProbeBudget(0.01)
    budget.earn(0.01, RATES)
    assert budget.choose(star(), HOPS) == []


def test_a_slow_link_saves_for_a_short_burst_however_fast_tokens_are() -> None:
    budget, seen = ProbeBudget(0.01), with_rates(c=1e6)
    needed_s = SHORT_BITS / 1e6
    for _ in range(math.ceil(needed_s / 0.01 / 0.05)):  # of intervals of 50 ms, of which eight would not pay for it
        assert budget.choose(seen, [("c", "up")]) == []
        budget.earn(0.05, {**RATES, ("c", "up"): 1e6})
    assert budget.choose(seen, [("c", "up")]) == [Probe("c", "a")]


@pytest.mark.parametrize("shown_bps, long", [(1e8, True), (1e7, True), (2e6, False)])
def test_the_short_burst_tells_how_long_the_longer_one_may_be(shown_bps: float, long: bool) -> None:
    budget, seen = ProbeBudget(0.01), star()
    budget.earn(10.0, RATES)
    (probe,) = budget.choose(seen, [("b", "up"), ("c", "down")])
    longer = budget.longer(seen, probe, shown_bps, 0.0)
    assert (longer is not None) == long
    assert longer is None or 0.8 * MOST_S <= longer.bits / shown_bps <= MOST_S


def test_what_is_probed_before_a_run_must_be_earned_afterwards() -> None:
    budget, seen = ProbeBudget(0.01), star()
    assert len(budget.first(seen)) == 4
    for _ in range(3):
        assert budget.choose(seen, [("a", "up")]) == []
        budget.earn(SHORT_BITS / 1e8 / 0.01 * 1.001, RATES)  # a has sent two bursts, and needs a third
    assert budget.choose(seen, [("a", "up")]) != []
    assert ProbeBudget(0.0).first(seen) == []
