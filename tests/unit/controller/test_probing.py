"""Probes: only of links that nobody has seen lately, and never more than the budget of each link's time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from testbed.controller.probing import ProbeBudget
from testbed.models.presets import PRESETS
from testbed.placement.blocks import WHOLE
from testbed.placement.observation import DeviceView, LinkView, Observation

HOPS = [(name, way) for name in "abc" for way in ("up", "down")]


def star(**rates: float) -> Observation:
    links = {name: LinkView(rates.get(name, 1e8), rates.get(name, 1e8), 1e-3, 1e-3) for name in "abc"}
    devices = tuple(DeviceView(name, 2**28, 1e9, 1e10, 1e8) for name in "abc")
    return Observation(PRESETS["tiny"], WHOLE, "a", devices, links, 4, 0, 64, 8)


@given(
    st.floats(0.001, 0.1), st.lists(st.tuples(st.floats(0, 20), st.sets(st.sampled_from(HOPS))), max_size=20),
    st.dictionaries(st.sampled_from("abc"), st.floats(1e5, 1e9)),
)  # fmt: skip
def test_probes_stay_within_their_share_of_every_links_time(
    share: float, intervals: list[tuple[float, set[tuple[str, str]]]], rates: dict[str, float]
) -> None:
    budget, seen, passed_s = ProbeBudget(share), star(**rates), 0.0
    for interval_s, stale in intervals:
        passed_s += interval_s
        budget.earn(interval_s, HOPS)
        for probe in budget.choose(seen, stale):
            assert {leg.hop for leg in seen.path(probe.sender, probe.receiver)} & stale
        assert all(budget.spent_s[hop] <= share * passed_s * (1 + 1e-9) for hop in HOPS)


@given(st.lists(st.tuples(st.floats(0.5, 5), st.floats(0, 3)), min_size=1, max_size=40))
def test_what_a_probe_takes_longer_than_it_should_is_charged_before_the_next_one(
    intervals: list[tuple[float, float]],
) -> None:
    budget, seen, passed_s = ProbeBudget(0.01), star(), 0.0
    for interval_s, late_s in intervals:
        passed_s += interval_s
        budget.earn(interval_s, HOPS)
        for probe in budget.choose(seen, HOPS):
            hops = {leg.hop for leg in seen.path(probe.sender, probe.receiver)}
            assert all(budget.spent_s[hop] <= 0.01 * passed_s * (1 + 1e-9) for hop in hops)
            budget.late(hops, late_s)


def test_no_probe_is_sent_where_every_link_has_been_seen() -> None:
    budget = ProbeBudget(0.01)
    budget.earn(100.0, HOPS)
    assert budget.choose(star(), []) == []


def test_one_probe_looks_at_two_stale_directions_at_once() -> None:
    budget = ProbeBudget(0.01)
    budget.earn(10.0, HOPS)
    found = budget.choose(star(), [("b", "up"), ("c", "down")])
    assert [(probe.sender, probe.receiver) for probe in found] == [("b", "c")]
    assert found[0].bits / 1e8 <= 0.1


def test_a_link_that_has_earned_too_little_is_not_probed() -> None:
    budget = ProbeBudget(0.01)
    budget.earn(0.01, HOPS)
    assert budget.choose(star(), HOPS) == []
