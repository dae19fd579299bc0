"""Links that are out for a while: messages wait, no bit is lost, and the run goes on as soon as the link is back."""

from __future__ import annotations

import pytest
from host_pace import judging_time
from outages import HOST_S, ROUND_TRIP_S, goes_on
from running import Place


@pytest.mark.parametrize(
    ("backend", "moment", "seconds"),
    [
        ("mininet", "decode", 0.1), ("mininet", "decode", 1.0), ("mininet", "migration", 0.1),
        ("mininet", "migration", 1.0), ("local", "decode", 1.0), ("local", "migration", 1.0),
    ],
)  # fmt: skip
def test_after_an_outage_a_run_goes_on_within_two_round_trips(
    place: Place, backend: str, moment: str, seconds: float
) -> None:
    after_s = goes_on(place, backend, moment, seconds)
    print(f"{backend}, {moment}, {seconds:g} s: {1e3 * after_s:.1f} ms after the link is back")
    with judging_time():
        assert after_s < 2 * ROUND_TRIP_S + HOST_S
