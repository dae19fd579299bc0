"""The estimator over sequences of intervals: links that change, messages that wait, samples that make no sense."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stars import sent, star

from testbed.controller.estimator import Estimator, Operation
from testbed.controller.link_samples import Message, Train
from testbed.placement.observation import LinkView, Observation

NAMES = "abc"
PAIRS = [(sender, receiver) for sender in NAMES for receiver in NAMES if sender != receiver]
WAYS = ("up", "down")
SIZES = (2e4, 2e5, 6e5)  # bits
wild = st.floats() | st.sampled_from([0.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan])


class Network:
    """A star whose links change, whose messages wait for one another, and whose devices' clocks differ."""

    def __init__(self, seed: int, noise_s: float) -> None:
        self.drawn, self.noise_s = Random(seed), noise_s
        self.truth = star({name: self._link() for name in NAMES})
        self._offsets = {name: self.drawn.uniform(-5, 5) for name in NAMES}

    def _link(self) -> LinkView:
        return LinkView(10 ** self.drawn.uniform(6, 9), 10 ** self.drawn.uniform(6, 9), 1e-3, 1e-3)

    def change(self) -> None:
        """Let a link have other rates."""
        self.truth = star({**self.truth.links, self.drawn.choice(NAMES): self._link()})

    def carry(self, count: int, within_s: float, sizes: Sequence[float] = SIZES) -> list[Message]:
        """Random messages; each takes its turn on its sender's link and on its receiver's."""
        sends = [
            (self.drawn.uniform(0, within_s), *self.drawn.choice(PAIRS), self.drawn.choice(sizes)) for _ in range(count)
        ]
        free: dict[tuple[str, str], float] = {}
        found = []
        for at_s, sender, receiver, bits in sorted(sends):
            up, down = self.truth.path(sender, receiver)
            begun_s = max(at_s, free.get(up.hop, 0.0))
            free[up.hop] = begun_s + bits / up.rate_bps
            arrives_s = max(begun_s + up.delay_s + down.delay_s, free.get(down.hop, 0.0))
            free[down.hop] = arrives_s + bits / min(up.rate_bps, down.rate_bps)
            found.append(
                Message(sender, receiver, bits, self._stamp(sender, at_s), self._stamp(receiver, free[down.hop]))
            )
        return found

    def restart(self, device: str, jump_s: float) -> None:
        """Let a device have another clock."""
        self._offsets[device] += jump_s

    def _stamp(self, device: str, time_s: float) -> float:
        return time_s + self._offsets[device] + self.drawn.uniform(-self.noise_s, self.noise_s)


@pytest.mark.parametrize("within_s", [0.3, 3.0, 300.0])
@pytest.mark.parametrize("noise_s", [0.0, 1e-4])
@given(st.integers(0, 10**6), st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.booleans()), max_size=10))
def test_no_link_is_estimated_to_be_faster_than_it_was_told_or_has_ever_been(
    within_s: float, noise_s: float, seed: int, intervals: list[tuple[bool, int, bool]]
) -> None:
    network = Network(seed, noise_s)
    found = Estimator(network.truth, lambda rate: 0.0, noise_s)
    most = {(name, way): 0.0 for name in NAMES for way in WAYS}
    for now, (changes, count, alike) in enumerate([(False, 0, False), *intervals], 1):
        if changes:
            network.change()
        for name, way in most:
            most[name, way] = max(most[name, way], getattr(network.truth.links[name], f"{way}_bps"))
        found.messages(network.carry(count, within_s, SIZES[:1] if alike else SIZES))
        found.end_interval(float(now))
        links = found.observation(network.truth, float(now), {}).links
        for name, way in most:  # stamps that are off by their noise tell a rate that is off by a fifth at most
            assert getattr(links[name], f"{way}_bps") <= 1.25 * most[name, way]


@given(st.integers(0, 10**6))
def test_links_that_stay_as_they_are_are_found_among_messages_that_wait(seed: int) -> None:
    network = Network(seed, 0.0)
    told = star({name: LinkView(1e9, 1e9, 1e-3, 1e-3) for name in NAMES})  # messages alone show no more than that
    found = Estimator(told, lambda rate: 0.0, 0.0)
    for now in range(1, 5):
        found.messages(network.carry(200, 1000.0))
        found.end_interval(float(now))
    seen = found.observation(network.truth, 5.0, {})
    for pair in PAIRS:
        expected = min(leg.rate_bps for leg in network.truth.path(*pair))
        assert min(leg.rate_bps for leg in seen.path(*pair)) == pytest.approx(expected, rel=0.12)


samples = st.one_of(
    st.builds(Operation, st.sampled_from(NAMES), wild, wild, wild),
    st.builds(lambda pair, *rest: Message(*pair, *rest), st.sampled_from(PAIRS), wild, wild, wild),
    st.builds(lambda pair, *rest: Train(*pair, *rest), st.sampled_from(PAIRS), wild, wild, st.none() | wild),
    st.tuples(st.sampled_from(NAMES), st.integers(-(2**70), 2**70)),
)


@given(
    st.lists(st.lists(samples, max_size=6), max_size=8), st.sampled_from([0.0, 1e-4]), st.sampled_from([0.0, 12800.0])
)
def test_samples_that_make_no_sense_leave_estimates_that_a_policy_can_use(
    intervals: list[list[Operation | Message | Train | tuple[str, int]]], noise_s: float, burst: float
) -> None:
    told = star({name: LinkView(1e8, 1e8, 1e-3, 1e-3) for name in NAMES})
    found = Estimator(told, lambda rate: burst, noise_s)
    for now, heard in enumerate(intervals, 1):
        for sample in heard:
            match sample:
                case Operation():
                    found.operations([sample])
                case Message():
                    found.messages([sample])
                case Train():
                    found.train(sample)
                case device, available_bytes:
                    found.memory(device, available_bytes, float(now))
        found.end_interval(float(now))
        seen = found.observation(told, float(now), {})
        for key, (value, age_s, spread) in (seen.estimates or {}).items():
            assert math.isfinite(value) and value >= 0 and 0 <= spread <= 1 and 0 <= age_s <= now, key
        for link in seen.links.values():
            assert link.up_bps > 0 and link.down_bps > 0
        for view in seen.devices:
            assert view.streaming_Bps > 0 and view.compute_flops > 0 and view.available_bytes >= 0


@given(st.permutations(range(12)), st.lists(st.sampled_from(SIZES), min_size=12, max_size=12))
def test_the_order_in_which_samples_arrive_makes_no_difference(order: list[int], sizes: list[float]) -> None:
    network = Network(1, 0.0)
    network.change()
    messages = [message for size in sizes for message in network.carry(1, 10.0, [size])]
    found = []
    for one in (messages, [messages[number] for number in order]):
        estimator = Estimator(star({name: LinkView(1e8, 1e8, 1e-3, 1e-3) for name in NAMES}), lambda rate: 0.0, 0.0)
        estimator.messages(one)
        estimator.end_interval(1.0)
        found.append(estimator.estimates(1.0, {}))
    assert found[0] == found[1]


def told_fast(**rates: float) -> Observation:
    """A star of which only the named links are not as fast as that of a."""
    return star({name: LinkView(rates.get(name, 2e8), rates.get(name, 2e8), 1e-3, 1e-3) for name in NAMES})


def test_what_slows_a_probe_is_not_a_link_that_messages_have_shown_to_be_faster() -> None:
    told = told_fast(b=5e7, c=1e8)
    found = Estimator(told, lambda rate: 0.0, 1e-4)
    found.messages(sent(told, pair, bits, 10.0 * at) for at, (pair, bits) in enumerate([("ba", 2e4), ("ba", 6e5)]))
    found.end_interval(1.0)
    found.train(Train("b", "c", 1e6, 0.1))
    found.hear_trains(1.0)
    links = found.observation(told, 1.0, {}).links
    assert links["b"].up_bps == 5e7 and links["c"].down_bps == pytest.approx(1e7, rel=0.01)


def test_messages_that_tell_a_rate_roughly_are_no_proof_against_a_probe() -> None:
    told = told_fast(c=5e7)
    found = Estimator(told, lambda rate: 0.0, 1e-4)
    for now in (1.0, 2.0):  # 0.4 ms, of which the stamps' noise may be half
        found.messages([sent(told, "bc", 2e4, 10.0)])
        found.end_interval(now)
    found.train(Train("a", "c", 4e5, 0.02))
    found.hear_trains(2.0)
    links = found.observation(told, 2.0, {}).links
    assert links["a"].up_bps == 2e8 and links["c"].down_bps == pytest.approx(2e7, rel=0.01)


def test_links_that_one_slow_probe_does_not_tell_apart_are_in_doubt_until_another_one() -> None:
    told = told_fast(b=5e7, c=1e8)
    found = Estimator(told, lambda rate: 0.0, 1e-4)
    for pair, rate, doubted in (("cb", 2e7, {("c", "up"), ("b", "down")}), ("ab", 5e7, {("c", "up")})):
        found.train(Train(*pair, rate * 0.02, 0.02))
        found.hear_trains(1.0)
        assert {*found.stale_links(1.0, 100.0)} == doubted
    assert found.observation(told, 1.0, {}).links["b"].down_bps == pytest.approx(5e7, rel=0.01)


@pytest.mark.parametrize("slow", [{"ab"}, {"ba", "ca"}])
def test_what_is_slow_of_several_probes_is_laid_on_the_one_link_that_explains_it(slow: set[str]) -> None:
    told = told_fast()
    found = Estimator(told, lambda rate: 0.0, 1e-4)
    for pair in ("ab", "ac", "ba", "ca"):
        found.train(Train(*pair, 4e6, 4e6 / (2e7 if pair in slow else 2e8)))
    found.hear_trains(1.0)
    links = found.observation(told, 1.0, {}).links
    lowest = "b" if slow == {"ab"} else "a"
    for name, link in links.items():
        assert (link.up_bps, link.down_bps) == pytest.approx((2e8, 2e7 if name == lowest else 2e8), rel=0.01)


def test_a_link_that_is_faster_than_all_of_its_paths_needs_no_probe_while_it_keeps_up() -> None:
    told = told_fast(b=5e7, c=5e7)
    found = Estimator(told, lambda rate: 0.0, 1e-4)
    found.messages(sent(told, pair, bits, 10.0 * at) for at, (pair, bits) in enumerate([("ab", 2e4), ("ab", 6e5)]))
    found.end_interval(50.0)
    assert ("a", "up") not in found.stale_links(51.0, 40.0) and ("a", "down") in found.stale_links(51.0, 40.0)
    assert ("a", "up") in found.stale_links(99.0, 40.0)


@pytest.mark.parametrize("jump_s", [1e4, -1e4])
def test_a_device_that_starts_anew_with_another_clock_makes_no_link_slow_or_fast(jump_s: float) -> None:
    network = Network(3, 0.0)
    found = Estimator(network.truth, lambda rate: 0.0, 1e-4)
    for now in (1.0, 2.0):
        if now == 2.0:
            network.restart("b", jump_s)
            found.restarted("b")
        found.messages(network.carry(200, 2000.0, SIZES[:1] if now == 2.0 else SIZES))
        found.end_interval(now)
    seen = found.observation(network.truth, 2.0, {})
    for pair in PAIRS:
        rates = [min(leg.rate_bps for leg in each.path(*pair)) for each in (seen, network.truth)]
        assert rates[0] == pytest.approx(rates[1], rel=0.12)


def test_small_messages_that_took_longer_than_large_ones_confirm_no_rate() -> None:
    told = told_fast(c=1e8)
    found = Estimator(told, lambda rate: 0.0, 0.0)
    for now, late_s, rate in ((1.0, 0.0, 1e8), (2.0, 0.1, 1e6)):
        truth = star({**told.links, "c": LinkView(2e8, rate, 1e-3, 1e-3)})
        large, small = sent(truth, "ac", 6e4, 10.0), sent(truth, "ac", 2e4, 20.0)
        found.messages([large, small._replace(received_s=small.received_s + late_s)])
        found.end_interval(now)
    assert found.observation(told, 2.0, {}).links["c"].down_bps == pytest.approx(1e6, rel=0.1)
