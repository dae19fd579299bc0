"""A decision as arrays says what the plain functions say of it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import observations, quickstart, random_placements

from testbed.placement.annealing.problem import OLD_NOW, SHORTLIST, make_problem
from testbed.placement.annealing.tuning import WORTH_TRYING
from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost.memory import device_needs
from testbed.placement.cost.model import cost_model
from testbed.placement.observation import Observation


@settings(max_examples=50, deadline=None)
@given(observations(), st.data())
def test_what_the_old_blocks_keep_resident_is_what_memory_says(observation: Observation, data: st.DataObject) -> None:
    observation = replace(observation, tokens_done=8)
    old = data.draw(random_placements(observation, [view.name for view in observation.devices]))
    model = cost_model(observation)
    held, empty = (device_needs(observation, placement, observation.length) for placement in (old, None))
    expected = [held[name] - empty[name] for name in model.names]
    assert make_problem(model, old, model).devices[OLD_NOW].tolist() == expected


def test_a_device_that_holds_blocks_is_worth_trying_however_slow_it_is() -> None:
    few = quickstart(tokens_done=8)
    fast = replace(few.devices[0], available_bytes=2**34)
    slow = replace(fast, name="slow", streaming_Bps=1e6, compute_flops=1e6)
    views = (fast, *(replace(fast, name=f"d{number}") for number in range(WORTH_TRYING + 2)), slow)
    observation = replace(few, devices=views, links={view.name: few.links["a"] for view in views})
    model = cost_model(observation)

    def tried(device: str) -> set[str]:
        old = Placement(dict.fromkeys(blocks_of(observation.shape, observation.partition), device))
        problem = make_problem(model, old, model)
        return {model.names[index] for index in problem.devices[SHORTLIST, : problem.worth_trying]}

    assert "slow" not in tried("a") and len(tried("a")) == WORTH_TRYING
    assert tried("slow") == tried("a") | {"slow"}
