"""The estimator: it finds what is there, forgets what was, never claims what it has not seen, and needs no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stars import sent, star

from testbed.controller.estimator import LINK_TOLERANCE, Belief, Estimator, Operation
from testbed.controller.link_samples import Message, Train
from testbed.placement.observation import LinkView, Observation

rates = st.floats(1e5, 1e9)
speeds = st.floats(1e6, 1e12)
samples = st.floats(allow_nan=True, allow_infinity=True)


def estimator(told: Observation) -> Estimator:
    return Estimator(told, lambda rate: 0.0, 0.0)


def exchanged(truth: Observation, offsets: Mapping[str, float] = {}, sizes: tuple[float, ...] = (2e4, 6e5)):  # type: ignore[no-untyped-def]
    """A message of each size from `a` to each other device and back, one at a time."""
    pairs = [pair for name in "bc" for pair in ("a" + name, name + "a")]
    return [
        sent(truth, pair, bits, 100.0 * number, offsets)
        for number, (pair, bits) in enumerate((pair, bits) for pair in pairs for bits in sizes)
    ]


@given(speeds, speeds)
def test_a_device_that_keeps_its_rates_is_found_to_have_them(streaming: float, compute: float) -> None:
    found = estimator(star())
    for now in range(1, 6):
        found.operations(
            Operation("b", flops, size, max(flops / compute, size / streaming))
            for flops, size in ((1.0, 1e9), (1e12, 1.0), (1e3, 1e9), (1e12, 1e3))
        )
        found.end_interval(float(now))
    seen = found.observation(star(), 5.0, {}).device("b")
    assert seen.streaming_Bps == pytest.approx(streaming, rel=0.05) or streaming > 1e9 > seen.streaming_Bps * 0.9
    for flops, size in ((1.0, 1e9), (1e12, 1.0)):
        expected = max(flops / compute, size / streaming)
        assert max(flops / seen.compute_flops, size / seen.streaming_Bps) == pytest.approx(expected, rel=0.05)


def test_one_short_operation_that_the_host_held_up_makes_no_device_slow() -> None:
    told = star()
    found = Estimator(told, lambda rate: 0.0, 1e-4)
    short, long = Operation("b", 1e3, 5e5, 5e-4), Operation("b", 1e3, 5e6, 5e-3)
    found.operations([*50 * [short], short._replace(seconds=4e-3)])
    found.end_interval(1.0)
    assert found.observation(told, 1.0, {}).device("b").streaming_Bps == 1e9
    found.operations([*50 * [short._replace(seconds=2e-3)], *5 * [long._replace(seconds=2e-2)]])
    found.end_interval(2.0)
    assert found.observation(told, 2.0, {}).device("b").streaming_Bps == pytest.approx(2.5e8)


@given(rates, rates, st.floats(0, 0.02))
def test_links_that_keep_their_rates_are_found_to_have_them(up: float, down: float, delay: float) -> None:
    truth = star({"c": LinkView(up, down, delay, delay)})
    found = estimator(star())
    for now in range(1, 4):
        found.messages(exchanged(truth))
        found.end_interval(float(now))
    seen = found.observation(star(), 3.0, {})
    for pair in ("ac", "ca"):
        expected = min(leg.rate_bps for leg in truth.path(*pair))
        assert min(leg.rate_bps for leg in seen.path(*pair)) == pytest.approx(expected, rel=1.1 * LINK_TOLERANCE)
    there_and_back = sum(leg.delay_s for pair in ("ac", "ca") for leg in truth.path(*pair))
    believed = sum(leg.delay_s for pair in ("ac", "ca") for leg in seen.path(*pair))
    assert believed == pytest.approx(there_and_back, rel=0.25, abs=1e-4)


@given(rates, rates)
def test_a_link_whose_rate_changed_is_found_out_from_messages_of_one_size(before: float, after: float) -> None:
    found = estimator(star())
    for now, rate in enumerate((before, after, after), 1):
        truth = star({"c": LinkView(rate, rate, 1e-3, 1e-3)})
        found.messages(exchanged(truth, sizes=(2e4, 6e5) if now == 1 else (2e4,)))
        found.end_interval(float(now))
    seen = found.observation(star(), 3.0, {})
    for pair in ("ac", "ca"):
        expected = min(leg.rate_bps for leg in truth.path(*pair))
        assert min(leg.rate_bps for leg in seen.path(*pair)) == pytest.approx(expected, rel=0.12)


@given(st.dictionaries(st.sampled_from("abc"), st.floats(-1e4, 1e4)), rates)
def test_clocks_may_differ_by_any_amount(offsets: dict[str, float], rate: float) -> None:
    truth = star({"b": LinkView(rate, rate, 5e-3, 5e-3)})
    found = []
    for clocks in ({}, offsets):
        one = estimator(star())
        one.messages(exchanged(truth, clocks))
        one.end_interval(1.0)
        found.append(one.observation(star(), 1.0, {}))
    for name in "abc":
        one, other = (astuple(seen.links[name]) for seen in found)
        assert one == pytest.approx(other, rel=0.11, abs=1e-6)


def test_messages_that_wait_behind_others_make_no_link_slower() -> None:
    truth = star()
    bits, gone_s = 6e5, 6e5 / 1e8
    queued = [sent(truth, "ab", bits, 0.0), sent(truth, "ac", bits, gone_s)._replace(sent_s=0.0)]
    first, second = sent(truth, "ba", bits, 1.0), sent(truth, "ca", bits, 1.0)
    queued += [first, second._replace(received_s=first.received_s + gone_s)]
    found = estimator(truth)
    for now in (1.0, 2.0, 3.0):
        found.messages(queued)
        found.end_interval(now)
    assert found.observation(truth, 3.0, {}).links == truth.links


def test_what_was_learnt_while_a_rate_was_wrong_makes_no_link_recover() -> None:
    fast = {name: LinkView(2e8, 2e8, 1e-3, 1e-3) for name in "ab"}
    told, truth = star(fast), star(fast | {"c": LinkView(2e7, 2e7, 1e-3, 1e-3)})
    found = Estimator(told, lambda rate: 12800.0, 1e-4)

    def use(*pairs: str) -> None:
        for number, pair in enumerate(pairs):
            one = sent(truth, pair, 20256.0, 10.0 * number)
            found.messages([one._replace(received_s=one.received_s - 12800 / 2e7)])

    for now in (1.0, 2.0, 3.0, 4.0):
        use("ac", "ca", "bc", "cb")
        if now == 1.0:
            found.train(Train("a", "c", 4e5, 0.02))
            found.train(Train("c", "a", 4e5, 0.02))
        found.end_interval(now)
        seen = found.observation(told, now, {})
        for pair in ("ac", "bc", "cb"):
            assert min(leg.rate_bps for leg in seen.path(*pair)) == pytest.approx(2e7, rel=0.1)


def test_a_link_that_recovers_is_found_out_although_stamps_are_noisy() -> None:
    found = Estimator(star(), lambda rate: 12800.0, 1e-4)
    for now, rate in enumerate((2e7, 2e7, 5e7, 5e7), 1):
        truth = star({"c": LinkView(rate, rate, 1e-3, 1e-3)})
        messages = exchanged(truth, sizes=(20256.0, 6e5) if now < 3 else (20256.0,))
        saved_s = 12800 / rate  # what the bucket lets through at once
        found.messages(one._replace(received_s=one.received_s - saved_s * ("c" in one[:2])) for one in messages)
        found.end_interval(float(now))
        seen = found.observation(star(), float(now), {})
        for pair in ("ac", "ca"):
            assert min(leg.rate_bps for leg in seen.path(*pair)) == pytest.approx(rate, rel=0.5 if now > 2 else 0.1)
            assert min(leg.rate_bps for leg in seen.path(*pair)) <= 1e8


def test_a_burst_tells_a_links_rate_by_the_receivers_clock_alone() -> None:
    found = estimator(star())
    found.train(Train("a", "c", 1e6, 0.1))
    found.end_interval(1.0)
    seen = found.observation(star(), 1.0, {})
    assert min(leg.rate_bps for leg in seen.path("a", "c")) == pytest.approx(1e7)


@given(st.lists(st.tuples(samples, samples, samples, samples), max_size=20))
def test_no_sequence_of_samples_makes_an_estimate_that_is_no_number(wild: list[tuple[float, ...]]) -> None:
    found = estimator(star())
    for now, (one, two, three, four) in enumerate(wild, 1):
        found.operations([Operation("b", one, two, three), Operation("a", four, one, two)])
        found.messages([Message("a", "b", abs(one), two, three), Message("b", "a", abs(two), three, four)])
        found.train(Train("c", "a", one, two))
        found.end_interval(float(now))
    for estimate in found.estimates(100.0, {}).values():
        assert all(map(math.isfinite, estimate)) and estimate.value >= 0 and estimate.age_s >= 0


@given(st.floats(1, 1e12), st.lists(st.floats(0, 1e12), max_size=20))
def test_nothing_is_reported_that_was_neither_told_nor_seen(told: float, seen: list[float]) -> None:
    belief = Belief(told, 0.05)
    for now, sample in enumerate(seen):
        belief.hear(sample, float(now))
        assert belief.value in (told, *seen) and belief.value <= max(told, *seen)


@given(st.floats(1e5, 1e9), st.floats(1e5, 1e9), st.integers(1, 30))
def test_what_was_before_is_forgotten_after_one_interval(old: float, new: float, count: int) -> None:
    belief = Belief(1e8, 0.05)
    for now in range(count):
        belief.hear(old, float(now))
    belief.hear(new, float(count))
    assert belief.value == pytest.approx(new, rel=0.051 / 0.95)


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_an_estimate_ages_and_grows_less_certain_until_it_is_seen_again(first: float, more: float) -> None:
    belief = Belief(1e8, 0.05)
    belief.hear(1e8, 0.0)
    young, old = belief.estimate(first), belief.estimate(first + more)
    assert young.age_s == first and old.age_s >= young.age_s and old.spread >= young.spread
    belief.hear(1e8, first + more)
    assert belief.estimate(first + more).age_s == 0


def test_memory_is_what_the_device_says_or_less_where_less_was_announced() -> None:
    told = star()
    found = estimator(told)
    found.memory("b", 1000, 1.0)
    assert found.observation(told, 1.0, {}).device("b").available_bytes == 1000
    assert found.observation(told, 1.0, {"b": 400}).device("b").available_bytes == 400
    assert found.observation(told, 1.0, {"b": 4000}).device("b").available_bytes == 1000


def test_links_that_carry_nothing_become_stale() -> None:
    found = estimator(star())
    found.messages(exchanged(star()))
    found.end_interval(5.0)
    stale = found.stale_links(6.0, 2.0)
    assert stale == [] or {name for name, _ in stale} < set("abc")
    assert len(found.stale_links(60.0, 2.0)) == 6
    assert replace(star(), estimates=found.estimates(6.0, {})) == star()


def held(truth: Observation, pair: str, at_s: float = 0.0, late_s: float = 0.0) -> Message:
    """A decode step's message over a path of which the slowest link lets 12 800 bits through at once."""
    one = sent(truth, pair, 20256.0, at_s)
    saved_s = 12800 / min(leg.rate_bps for leg in truth.path(*pair))
    return one._replace(received_s=one.received_s - saved_s + late_s)


def test_a_link_that_is_seen_to_be_at_least_so_fast_makes_no_other_link_slower_and_is_probed() -> None:
    fast = {name: LinkView(2e8, 2e8, 1e-3, 1e-3) for name in "ab"}
    told = star(fast)
    found = Estimator(told, lambda rate: 12800.0, 1e-4)
    found.train(Train("a", "c", 4e5, 0.02))
    for now, rate in enumerate((2e7, 2e7, 5e7), 1):
        truth = star(fast | {"c": LinkView(1e8, rate, 1e-3, 1e-3)})
        found.messages([held(truth, "ac", late_s=2e-5 * (now == 3)), held(truth, "bc", 10.0)])
        found.end_interval(float(now))
    links = found.observation(told, 3.0, {}).links
    assert links["a"].up_bps == links["b"].up_bps == 2e8
    assert links["c"].down_bps == pytest.approx(5e7, rel=0.1)
    assert found.stale_links(3.0, 100.0) == [("a", "up"), ("c", "down")]  # the first burst did not tell them apart
    found.train(Train("a", "c", 1e6, (1e6 - 12800) / 5e7))
    found.end_interval(4.0)
    assert found.stale_links(4.0, 100.0) == []


def test_the_empty_message_of_a_probe_tells_what_later_messages_are_held_up_by() -> None:
    fast = {"a": LinkView(2e8, 2e8, 1e-3, 1e-3)}
    told = star(fast)
    found = Estimator(told, lambda rate: 12800.0, 1e-4)
    ahead_s = -7.0  # the clock of c beside that of a
    found.train(Train("a", "c", 1e6, (1e6 - 12800) / 1e8, 2e-3 + ahead_s))
    found.end_interval(1.0)
    truth = star(fast | {"c": LinkView(1e8, 2e7, 1e-3, 1e-3)})
    message = held(truth, "ac")
    found.messages([message._replace(received_s=message.received_s + ahead_s)])
    found.end_interval(2.0)
    assert found.observation(told, 2.0, {}).links["c"].down_bps == pytest.approx(2e7, rel=0.01)
    assert found.stale_links(2.0, 100.0) == [("c", "down")]  # a time so short tells a rate that a probe should check


@pytest.mark.parametrize("rate, doubted", [(1e8, []), (2e7, [("b", "down"), ("c", "up")])])
def test_a_new_path_that_takes_longer_than_other_paths_let_expect_is_probed(
    rate: float, doubted: list[tuple[str, str]]
) -> None:
    told = star()
    found = Estimator(told, lambda rate: 12800.0, 1e-4)
    clocks = {"a": 3.0, "b": 0.5, "c": -7.0}
    for pair in ("ac", "ab"):
        found.train(Train(*pair, 1e6, (1e6 - 12800) / 1e8, 2e-3 + clocks[pair[1]] - clocks[pair[0]]))
    found.end_interval(1.0)
    message = held(star({"c": LinkView(rate, 1e8, 1e-3, 1e-3)}), "cb")
    found.messages([message._replace(sent_s=message.sent_s + clocks["c"], received_s=message.received_s + clocks["b"])])
    found.end_interval(2.0)
    assert found.observation(told, 2.0, {}).links == told.links
    assert found.stale_links(2.0, 100.0) == doubted


@pytest.mark.parametrize("doubted, expected", [(False, 2.6e7), (True, 2e7)])
def test_a_slow_probe_is_laid_on_the_host_only_where_the_rate_was_not_in_doubt(doubted: bool, expected: float) -> None:
    told = star({"a": LinkView(2e8, 2e8, 1e-3, 1e-3), "c": LinkView(2.6e7, 2.6e7, 1e-3, 1e-3)})
    found = Estimator(told, lambda rate: 0.0, 1e-4)
    if doubted:
        found.train(Train("a", "c", 1e6, 1e6 / 2.6e7, 2e-3))
        found.train(Train("a", "b", 1e6, 1e6 / 1e8, 2e-3))
        found.end_interval(1.0)
        found.messages([Message("c", "b", 2e4, 0.0, 2e-3 + 2e4 / 2e7), Message("b", "c", 2e4, 9.0, 9.0 + 2e-3 + 2e-3)])
        found.end_interval(2.0)
    found.train(Train("a", "c", 1e6, 1e6 / 2e7))
    found.end_interval(3.0)
    assert found.observation(told, 3.0, {}).links["c"].down_bps == pytest.approx(expected, rel=0.01)
