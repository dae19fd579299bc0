"""A forecast's latencies are `token_latency`'s own, whichever of them it reads off a line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import any_partition, networked, placed, quickstart

from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost.forecast import Forecast, forecast_of
from testbed.placement.cost.model import CostModel, token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import Plan, make_plan


@settings(max_examples=300)
@given(st.one_of(placed(any_partition), networked(any_partition)), st.integers(1, 100), st.data())
def test_every_length_has_the_latency_of_its_token(
    case: tuple[Observation, Placement], tokens: int, data: st.DataObject
) -> None:
    observation, placement = case
    plan, first = make_plan(observation, placement), observation.length
    forecast = Forecast(observation, plan, first + tokens - 1)
    asked = data.draw(st.lists(st.integers(first, first + tokens - 1), min_size=1, max_size=12))
    for length in [*asked, *range(first, first + tokens)]:
        assert forecast.seconds(length) == pytest.approx(token_latency(observation, plan, length), rel=1e-9)


def test_an_interval_costs_a_few_computations_and_a_single_token_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    attention_seconds = CostModel.attention_seconds

    def counted(model: CostModel, plan: Plan, layer: int, length: int) -> float:
        asked.append((layer, length))
        return attention_seconds(model, plan, layer, length)

    monkeypatch.setattr(CostModel, "attention_seconds", counted)
    observation = replace(quickstart(), hop_overhead_s=1e-4)
    placement = Placement({block: "abcd"[i % 4] for i, block in enumerate(blocks_of(observation.shape))})
    forecast = Forecast(observation, make_plan(observation, placement), 63)
    layers = range(observation.shape.layers)
    forecast.seconds(48)
    assert asked == [(layer, 48) for layer in layers]
    for length in range(48, 64):
        forecast.seconds(length)
    assert len(asked) <= 4 * len(layers)


def test_observations_that_differ_in_the_tokens_done_share_a_forecast() -> None:
    observation = quickstart()
    placement = Placement({block: "abcd"[i % 4] for i, block in enumerate(blocks_of(observation.shape))})
    plan = make_plan(observation, placement)
    shared = forecast_of(observation, plan, 63)
    assert forecast_of(replace(observation, tokens_done=16), plan, 63) is shared
    assert forecast_of(replace(observation, hop_overhead_s=0.5), plan, 63) is not shared
    assert forecast_of(observation, plan, 64) is not shared
    assert shared.seconds(40) == pytest.approx(token_latency(observation, plan, 40), rel=1e-12)
