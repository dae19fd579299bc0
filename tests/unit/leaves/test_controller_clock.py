"""The emulated clock: dilation slows it, pauses stop only the traces' clock, and nothing runs before the start."""

from __future__ import annotations

import pytest

from testbed.clock import ClockState, EmulatedClock, VirtualTime


class Wall:
    """A wall clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


def test_time_is_zero_before_the_start(wall: Wall) -> None:
    clock = EmulatedClock(2.0, wall)
    wall.now += 50
    assert (clock.now(), clock.trace_now(), clock.at(5.0)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("dilation", [1.0, 4.0])
def test_a_clock_goes_on_from_where_an_earlier_one_was_left(wall: Wall, dilation: float) -> None:
    clock = EmulatedClock(dilation, wall)
    clock.go_on_from(20.0, 15.0)
    clock.pause()  # a policy may decide before the start, as after a loss that the earlier one has left
    wall.now += 7
    clock.resume()
    assert (clock.now(), clock.trace_now()) == (20.0, 15.0)
    clock.start()
    wall.now += dilation * 3
    assert (clock.now(), clock.trace_now()) == pytest.approx((23.0, 18.0))


@pytest.mark.parametrize("dilation", [1.0, 4.0])
def test_an_emulated_second_takes_dilation_wall_seconds(wall: Wall, dilation: float) -> None:
    clock = EmulatedClock(dilation, wall)
    clock.start()
    wall.now += 12
    assert clock.now() == clock.trace_now() == pytest.approx(12 / dilation)
    assert clock.duration(2.0) == pytest.approx(2 / dilation)
    assert clock.at(1004.0) == pytest.approx(4 / dilation)


def test_a_pause_stops_the_trace_clock_and_no_other(wall: Wall) -> None:
    clock = EmulatedClock(2.0, wall)
    clock.start()
    wall.now += 4
    clock.pause()
    wall.now += 10
    assert clock.trace_now() == pytest.approx(2.0), "standing still while paused"
    assert clock.now() == pytest.approx(7.0)
    clock.resume()
    assert clock.trace_now() == pytest.approx(2.0), "going on from where it stood"
    wall.now += 6
    assert clock.trace_now() == pytest.approx(5.0)
    assert clock.now() == pytest.approx(10.0)


def test_pauses_add_up_and_a_second_pause_or_resume_changes_nothing(wall: Wall) -> None:
    clock = EmulatedClock(wall=wall)
    clock.start()
    clock.resume()
    for _ in range(3):
        wall.now += 1
        clock.pause()
        wall.now += 1
        clock.pause()
        wall.now += 1
        clock.resume()
        clock.resume()
    assert clock.trace_now() == pytest.approx(3.0)
    assert clock.now() == pytest.approx(9.0)


def test_a_wall_time_before_the_start_is_negative_and_traces_never_see_it(wall: Wall) -> None:
    clock = EmulatedClock(wall=wall)
    clock.start()
    assert clock.at(999.0) == pytest.approx(-1.0)
    assert clock.trace_now() == 0.0


def test_whoever_follows_the_clock_can_tell_its_time_elsewhere(wall: Wall) -> None:
    clock = EmulatedClock(2.0, wall)
    early: list[ClockState] = []
    clock.follow(early.append)
    assert early == [], "it does not run yet"
    clock.start()
    wall.now += 4
    clock.pause()
    late: list[ClockState] = []
    clock.follow(late.append)
    wall.now += 3
    clock.resume()
    standing, again = ClockState(1000.0, 0.0, 1004.0), ClockState(1000.0, 3.0, None)
    assert early == [ClockState(1000.0, 0.0, None), standing, again]
    assert late == [standing, again]


def test_virtual_time_passes_as_far_as_it_is_told_and_never_back() -> None:
    time = VirtualTime()
    clock = EmulatedClock(wall=time)
    time.advance(3.0)
    clock.start()
    time.advance(7.5)
    assert clock.now() == clock.trace_now() == 4.5
    time.advance(5.0)
    assert time() == 7.5
