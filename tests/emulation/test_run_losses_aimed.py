"""Six of the forty losses of tests/nightly: a worker dies in each phase but the set-up."""

from __future__ import annotations

import pytest
from losing import aim, assert_survived, lose
from running import Place


@pytest.mark.parametrize(
    ("number", "backend"), [(1, "local"), (2, "mininet"), (3, "local"), (4, "mininet"), (5, "mininet"), (6, "local")]
)
def test_a_worker_may_die_in_any_phase(place: Place, number: int, backend: str) -> None:
    kill = aim(number)
    hit, ended, took = lose(place, kill, backend)
    assert_survived(place, kill, hit, ended, took)
