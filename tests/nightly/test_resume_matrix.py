"""The controller killed at every moment, and at moments drawn at random, on both backends: every run goes on."""

from __future__ import annotations

import random

import pytest
from dying import MOMENTS, asked_for, decided, kill_controller, resume, wandering
from outages import BEGIN_S, TOKENS, with_outage
from running import Place, rows

BACKENDS = ("local", "mininet")
DRAWN = random.Random(17)
BYTES = [f"journal:{DRAWN.randrange(1, 19_000)}" for _ in range(10)]  # a run's journal has about 20,000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("moment", [*MOMENTS, *BYTES])
def test_a_run_goes_on_whenever_its_controller_is_killed(place: Place, moment: str, backend: str) -> None:
    experiment = wandering(place.base)
    with place.started(experiment, *asked_for(backend)) as going:
        folder = kill_controller(going, moment)
    resume(place, folder)
    assert [step for step, _ in decided(folder)] == [0, 4, 8, 9, 12, 16, 20]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("moment", ["decode", "migration", "recovery", *BYTES[:4]])
def test_a_run_that_keeps_replicas_is_resumed_too(place: Place, moment: str, backend: str) -> None:
    experiment = wandering(place.base, recovery={"method": "replicate"})
    with place.started(experiment, *asked_for(backend)) as going:
        folder = kill_controller(going, moment)
    resume(place, folder)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_on_the_time_clock_goes_on_in_the_middle_of_an_outage(place: Place, backend: str) -> None:
    experiment = with_outage(place.base, "decode", 3.0)
    with place.started(experiment, *asked_for(backend)) as going:
        folder = kill_controller(going, "outage")
    resume(place, folder, TOKENS["decode"])
    back_s = BEGIN_S["decode"] + 3.0
    held = [row for row in rows(folder, "tokens") if row["start_s"] < back_s <= row["start_s"] + row["latency_s"]]
    assert len(held) == 1 and held[0]["start_s"] + held[0]["latency_s"] < back_s + 1.0
