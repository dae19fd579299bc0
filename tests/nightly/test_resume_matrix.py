"""The controller killed at every moment, and at moments drawn at random, on both backends: every run goes on."""

from __future__ import annotations

import random

import pytest
from dying import MOMENTS, asked_for, decided, kill_controller, resume, wandering
from running import Place

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
def test_a_run_that_keeps_replicas_and_copies_while_tokens_go_on_is_resumed_too(
    place: Place, moment: str, backend: str
) -> None:
    experiment = wandering(place.base, migration="live", recovery={"method": "replicate"})
    with place.started(experiment, *asked_for(backend)) as going:
        folder = kill_controller(going, moment)
    resume(place, folder)
