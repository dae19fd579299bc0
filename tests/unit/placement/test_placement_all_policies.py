"""What holds for every policy with little memory and time: what it decides fits, or it says that it has nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import observations, quickstart

from testbed.placement.blocks import blocks_of, pinned_bytes
from testbed.placement.cost.memory import Infeasible, kinds_at, shortages
from testbed.placement.observation import Observation
from testbed.placement.policies import POLICIES, make_policy

HURRIED: Mapping[str, Mapping[str, Any]] = {  # next to no time for policies that can be told so
    "exact": {"limit": "1 ms"},
    "headroom": {"effort": 1e-6},
}
STAYS = "static"  # it says nothing when its placement no longer fits; the run then ends out of memory


def possible(observation: Observation, name: str) -> Observation:
    """The same without what `exact` refuses."""
    if name != "exact":
        return observation
    return replace(observation, partition=replace(observation.partition, vocab_shards=1))


@pytest.mark.parametrize("name", list(POLICIES))
@settings(max_examples=25, deadline=None)
@given(
    observation=observations(tightness=st.sampled_from([0.0, 0.5, 0.9, 1.1, 1.5, 3.0])),
    memory=st.lists(st.sampled_from([0.0, 0.6, 0.9, 1.0, 1.2]), min_size=5, max_size=5),
    rate=st.sampled_from([0.0, 0.01, 1.0]),
)
def test_a_policy_with_little_memory_and_time_fits_or_says_so_and_never_crashes(
    name: str, observation: Observation, memory: list[float], rate: float
) -> None:
    observation = possible(observation, name)
    policy = make_policy(name, HURRIED.get(name, {}))
    policy.reset(1)
    try:
        placement = policy.decide(observation, None)
    except Infeasible as error:
        assert name in str(error) or "fit" in str(error)
        return
    assert sorted(placement.devices) == sorted(blocks_of(observation.shape, observation.partition))
    assert shortages(observation, None, placement) == []
    for done in (8, 32):
        views = tuple(
            replace(view, available_bytes=int(view.available_bytes * share))
            for view, share in zip(observation.devices, memory, strict=False)
        )
        links = {link: replace(view, up_bps=view.up_bps * rate) for link, view in observation.links.items()}
        now = replace(observation, tokens_done=done, devices=views, links=links)
        before = placement
        try:
            placement = policy.decide(now, before)
        except Infeasible:
            return
        assert sorted(placement.devices) == sorted(before.devices)
        if name == STAYS:
            assert placement is before
        else:
            assert shortages(now, before, placement) == []


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "static"])
@pytest.mark.parametrize("part", [0.02, 0.99], ids=["the model is too large", "a block is too large"])
def test_what_cannot_fit_on_many_devices_is_refused_at_once(name: str, part: float) -> None:
    seen = quickstart()
    largest = kinds_at(seen, seen.final_length)[0][1]
    views = [replace(seen.devices[number % 4], name=f"d{number}", available_bytes=int(part * largest))
             for number in range(400)]  # fmt: skip
    views[0] = replace(views[0], available_bytes=views[0].available_bytes + pinned_bytes(seen.shape, seen.partition))
    links = {view.name: seen.links["abcd"[number % 4]] for number, view in enumerate(views)}
    seen = replace(seen, source="d0", devices=tuple(views), links=links)
    policy = make_policy(name, {})
    policy.reset(1)
    started = time.process_time()
    with pytest.raises(Infeasible):
        policy.decide(seen, None)
    assert time.process_time() - started < 1
