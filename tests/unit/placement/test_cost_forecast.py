"""A forecast's latencies are `token_latency`'s own, whichever of them it reads off a line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import any_partition, networked, placed, quickstart

from testbed.placement.blocks import Placement, blocks_of
from testbed.placement.cost import forecast as forecast_module
from testbed.placement.cost.forecast import Forecast
from testbed.placement.cost.model import token_latency
from testbed.placement.observation import Observation
from testbed.placement.plan import make_plan


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


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []

    def counted(observation: Observation, plan: object, length: int) -> float:
        asked.append(length)
        return token_latency(observation, plan, length)  # type: ignore[arg-type]

    monkeypatch.setattr(forecast_module, "token_latency", counted)
    return asked


def test_an_interval_costs_a_few_computations_and_a_single_token_one(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = replace(quickstart(), hop_overhead_s=1e-4)
    placement = Placement({block: "abcd"[i % 4] for i, block in enumerate(blocks_of(observation.shape))})
    asked = count_calls(monkeypatch)
    forecast = Forecast(observation, make_plan(observation, placement), 63)
    forecast.seconds(48)
    assert asked == [48]
    for length in range(48, 64):
        forecast.seconds(length)
    assert len(asked) <= 8
