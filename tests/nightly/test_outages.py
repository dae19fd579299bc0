"""Outages of all lengths, in decode and in a migration, on both backends: no bit is lost, no patience ends a run."""

from __future__ import annotations

import pytest
from outages import HOST_S, ROUND_TRIP_S, goes_on
from running import Place


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["mininet", "local"])
@pytest.mark.parametrize("moment", ["decode", "migration"])
@pytest.mark.parametrize("seconds", [0.1, 1.0, 5.0, 30.0])
def test_after_an_outage_of_any_length_a_run_goes_on_within_two_round_trips(
    place: Place, backend: str, moment: str, seconds: float
) -> None:
    after_s = goes_on(place, backend, moment, seconds)
    print(f"{backend}, {moment}, {seconds:g} s: {1e3 * after_s:.1f} ms after the link is back")
    assert after_s < 2 * ROUND_TRIP_S + HOST_S
