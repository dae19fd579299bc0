"""Who is suspected and who is lost, by heartbeats and by their absence."""

from __future__ import annotations

from typing import Any

import pytest
from small_stars import three_devices

from testbed.controller.device_state import DeviceState
from testbed.controller.run_state import RunState
from testbed.controller.suspects import LOOK_S, Suspects, Suspicion
from testbed.transport.beats import Heartbeat

WAITING = Heartbeat(7, True)


class Watch:
    """Looks four times a second, as the controller does."""

    def __init__(self, pass_s: float = 0.0, **recovery: Any) -> None:
        self.state = RunState({name: DeviceState(name) for name in "abc"})
        self.suspects = Suspects(three_devices(recovery=recovery), self.state)
        self.suspects.pass_s, self.now = pass_s, 0.0
        self.news: list[tuple[float, Any]] = []

    def for_(self, seconds: float, *, beat: Heartbeat | None = None, paused: str = "") -> None:
        """Let time pass in which a and b wait for input, and c sends this heartbeat or none."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += LOOK_S
            beats = {"a": WAITING, "b": WAITING} | ({} if beat is None else {"c": beat})
            for found in self.suspects.look(self.now, beats, paused):
                self.news.append((self.now, found))

    @property
    def losses(self) -> list[tuple[float, str]]:
        return [(at, loss.hung) for at, (_, loss) in ((a, n) for a, n in self.news if isinstance(n, tuple))]


def test_a_silent_device_is_suspected_within_a_second_and_up_again_when_it_is_heard() -> None:
    watch = Watch()
    watch.for_(5, beat=WAITING)
    watch.for_(1)
    assert [(at <= 6, found.device, bool(found.reason)) for at, found in watch.news] == [(True, "c", True)]
    assert watch.state.devices["c"].state == "suspected" and not watch.state.lost
    watch.for_(0.25, beat=WAITING)
    assert watch.news[-1][1] == Suspicion("c", "") and watch.state.devices["c"].state == "up"


@pytest.mark.parametrize(("given", "after"), [(None, 10), ("2 s", 2), (60.0, 60)])
def test_a_silent_device_is_lost_after_the_time_that_the_experiment_gives(given: Any, after: float) -> None:
    watch = Watch() if given is None else Watch(suspect_after=given)
    watch.for_(1, beat=WAITING)
    watch.for_(after)
    assert not watch.losses
    watch.for_(0.5)
    assert watch.losses[0] == (1 + after + LOOK_S, f"device c: its worker gave no sign of life for {after} s")


def test_a_device_that_a_trace_pauses_is_lost_only_where_the_experiment_says_so() -> None:
    spared, strict = Watch(), Watch(suspect_after="3 s")
    spared.for_(100, paused="c")
    assert not spared.losses and spared.state.devices["c"].state == "suspected"
    strict.for_(4, paused="c")
    assert strict.losses


def test_a_pause_does_not_count_once_the_device_goes_on() -> None:
    watch = Watch()
    watch.for_(100, paused="c")
    watch.for_(LOOK_S)
    assert not watch.losses
    watch.for_(LOOK_S, beat=WAITING)
    assert watch.state.devices["c"].state == "up"


def test_a_main_thread_that_stands_still_is_noticed_although_heartbeats_come() -> None:
    watch = Watch()
    watch.for_(9, beat=Heartbeat(7, False))
    assert not watch.news
    watch.for_(13, beat=Heartbeat(7, False))
    assert isinstance(watch.news[0][1], Suspicion) and "stands still" in watch.news[0][1].reason
    assert next(told for _, told in watch.losses).startswith("device c: its worker stood still in an operation for 2")


def test_a_main_thread_has_as_long_as_its_pass_may_take() -> None:
    watch = Watch(pass_s=30.0)
    watch.for_(99, beat=Heartbeat(7, False))
    assert not watch.news


def test_a_thread_that_goes_on_or_waits_is_not_stuck() -> None:
    watch = Watch()
    for number in range(100):
        watch.for_(1, beat=Heartbeat(number, False))
    watch.for_(100, beat=Heartbeat(99, True))
    assert not watch.news


def test_a_controller_that_was_held_up_suspects_nobody_for_that() -> None:
    watch = Watch()
    watch.for_(1, beat=WAITING)
    for _ in range(2):
        watch.now += 50.0
        assert not list(watch.suspects.look(watch.now, {}, ()))


def test_lost_devices_are_not_watched_and_begin_anew_when_they_return() -> None:
    watch = Watch()
    watch.state.devices["c"].ended()
    watch.for_(20)
    assert not watch.news
    watch.state.devices["c"].started()
    watch.state.devices["c"].introduced()
    watch.for_(0.5)
    assert not watch.news
