"""What `headroom` does about estimates that may be wrong, and that it does nothing where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from search_cases import instance

from testbed.errors import ConfigError
from testbed.placement.blocks import Placement
from testbed.placement.cost.memory import shortages
from testbed.placement.cost.model import interval_cost
from testbed.placement.observation import Estimate, Observation
from testbed.placement.policies import make_policy
from testbed.placement.policies.headroom import Headroom
from testbed.placement.uncertainty import is_worth_moving, with_margin


def estimated(observation: Observation, memory: float = 0.0, rate: float = 0.1) -> Observation:
    """The observation with estimates of these spreads."""
    devices = {
        (f"device/{view.name}", quantity): Estimate(0.0, 1.0, memory if quantity == "memory" else rate)
        for view in observation.devices
        for quantity in ("memory", "streaming", "compute")
    }
    links = {(f"link/{name}", way): Estimate(0.0, 1.0, rate) for name in observation.links for way in ("up", "down")}
    return replace(observation, estimates=devices | links)


def decided(policy: Headroom, observation: Observation, placement: Placement | None = None) -> Placement:
    policy.reset(3)
    return policy.decide(observation, placement)


def test_without_estimates_neither_option_changes_a_decision() -> None:
    for seed in range(3):
        seen = instance(seed, 2, 6, 4, 3.0)
        assert with_margin(seen, 0.5) is seen
        first = decided(Headroom(), seen)
        assert decided(Headroom(margin=0.5, hysteresis=1.0), seen) == first


def test_with_a_margin_memory_stays_free_where_a_placement_is_found_so() -> None:
    seen = estimated(instance(0, 2, 6, 4, 3.0), memory=0.1)
    for margin, share in ((0.2, 0.2), (0.05, 0.1)):
        spared = with_margin(seen, margin)
        pairs = zip(spared.devices, seen.devices, strict=True)
        assert all(less.available_bytes == int((1 - share) * all_.available_bytes) for less, all_ in pairs)
        assert shortages(spared, None, decided(Headroom(margin=margin), seen)) == []
    assert decided(Headroom(margin=0.9), seen) == decided(Headroom(), seen)  # none fits in so little


def test_with_hysteresis_a_placement_that_fits_is_kept_unless_the_gain_is_larger_than_what_may_be_wrong() -> None:
    seen = estimated(instance(1, 2, 6, 4, 3.0))
    best = decided(Headroom(), seen)
    other = make_policy("round-robin", {}).decide(seen, None)
    assert shortages(seen, None, other) == []
    rest = replace(seen, interval=seen.tokens_max - seen.tokens_done)
    stay_s = interval_cost(rest, other, other)
    gain = (stay_s - interval_cost(rest, other, best)) / stay_s
    assert gain > 0
    assert is_worth_moving(seen, other, best, 9 * gain)
    assert not is_worth_moving(seen, other, best, 11 * gain)
    assert is_worth_moving(replace(seen, estimates=None), other, best, 11 * gain)


@pytest.mark.parametrize("option", ["margin", "hysteresis"])
@pytest.mark.parametrize("value", [-1, 11, True, "much", float("nan")])
def test_a_number_that_cannot_be_meant_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"policy headroom: {option} is "):
        Headroom(**{option: value})  # type: ignore[arg-type]
