"""Forty runs on each backend whose worker is killed at a random moment of every phase: no token and no bit is lost.

`.venv/bin/python -m pytest -s tests/nightly/test_losses.py` says which phase each kill hit.
"""

from __future__ import annotations

import pytest
from losing import aim, assert_survived, lose
from running import Place

RUNS = 40


@pytest.mark.timeout(150)
@pytest.mark.parametrize("backend", ["mininet", "local"])
@pytest.mark.parametrize("number", range(RUNS))
def test_a_worker_may_die_at_any_moment(place: Place, number: int, backend: str) -> None:
    kill = aim(number)
    hit, ended, took = lose(place, kill, backend)
    print(f"\n{backend} {number}: aimed at {kill}, hit {hit}: code {ended.code} after {took:.1f} s {ended.err.strip()}")
    assert_survived(place, kill, hit, ended, took)
