"""The compiled local search decides as the plain one, and knows the same figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_cases import networked, placed, quickstart, random_placements

from testbed.placement.blocks import Partition, Placement
from testbed.placement.cost import machine_code
from testbed.placement.cost.model import cost_model
from testbed.placement.local.arrays import layout_of, working_space
from testbed.placement.local.draft import Draft
from testbed.placement.local.improve import EFFORT, WORTHWHILE_S, improve_plainly
from testbed.placement.local.shifts import begin
from testbed.placement.local.sweep import improved
from testbed.placement.observation import Observation
from testbed.placement.policies.paper_search import PaperSearch

NONE_DEALT = np.zeros((0, 0), np.int64)
Case = tuple[Observation, Placement, Placement | None]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A network with some memory, a placement to begin with, and the present one, if any."""
    observation, old = draw(st.one_of(placed(), networked()).filter(lambda case: case[0].partition.hub))
    parts = [draw(st.floats(0.5, 2)) for _ in observation.devices]
    views = [
        replace(view, available_bytes=int(view.available_bytes * part))
        for view, part in zip(observation.devices, parts, strict=True)
    ]
    done = draw(st.sampled_from([0, 8, 16]))
    observation = replace(observation, devices=tuple(views), tokens_done=done)
    begun = draw(random_placements(observation, [view.name for view in views]))
    return observation, begun, draw(st.sampled_from([None, old, begun]))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_compiled_search_makes_the_plain_ones_decisions(case: Case) -> None:
    observation, begun, old = case
    plain, draft = (Draft(cost_model(observation), begun, old) for _ in range(2))
    improve_plainly(plain)
    assert improved(draft, EFFORT, WORTHWHILE_S) == plain.where


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_compiled_search_begins_with_the_drafts_figures(case: Case) -> None:
    observation, begun, old = case
    draft = Draft(cost_model(observation), begun, old)
    layout = layout_of(draft, NONE_DEALT, NONE_DEALT)
    working = working_space(draft, layout, 1)
    assert begin(layout, working) == pytest.approx(draft.cost, rel=1e-12)
    assert working.held[:2].tolist() == [draft.reserved_bytes, draft.double_bytes]


def test_the_compiled_search_tries_no_more_groups_than_it_may() -> None:
    observation = quickstart()
    old = PaperSearch(refine_first=False).decide(observation, None)
    drafts = [Draft(cost_model(observation), old, None) for _ in range(2)]
    assert improved(drafts[0], 0, WORTHWHILE_S) == drafts[0].where
    assert improved(drafts[1], EFFORT, WORTHWHILE_S) != drafts[1].where


@pytest.mark.parametrize("partition", [Partition(), Partition(4), Partition(4, proj_rows=True, vocab_shards=3)])
def test_small_drafts_are_improved_alike_with_and_without_the_machine_code(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = quickstart(partition=partition)
    decided = []
    monkeypatch.setattr("testbed.placement.local.improve.SMALL", 10**9)
    for there in (True, False):
        monkeypatch.setattr(machine_code, "is_there", lambda there=there: there)
        first = PaperSearch().decide(observation, None)
        decided.append((first, PaperSearch().decide(replace(observation, tokens_done=16), first)))
    assert decided[0] == decided[1]
