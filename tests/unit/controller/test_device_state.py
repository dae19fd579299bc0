"""What a run knows of a device: every state is left again, and an event that cannot happen tells how it came to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from testbed.controller.device_state import DeviceState, Fence, Instruction, Introduce, Offer, Recover, State
from testbed.errors import RunFailed

EVENTS: dict[str, Callable[[DeviceState], list[Instruction]]] = {
    "silent": DeviceState.silent,
    "heard": DeviceState.heard,
    "expired": DeviceState.expired,
    "ended": DeviceState.ended,
    "started": DeviceState.started,
    "introduced": DeviceState.introduced,
}


def following(state: State) -> dict[str, tuple[State, list[Instruction]]]:
    """What each event that can happen in a state makes of it."""
    found: dict[str, tuple[State, list[Instruction]]] = {}
    for name, event in EVENTS.items():
        device = DeviceState("b", state)
        try:
            instructions = event(device)
        except RunFailed:
            continue
        found[name] = device.state, instructions
    return found


def reachable(start: State) -> set[State]:
    seen: set[State] = {start}
    waiting = [start]
    while waiting:
        for state, _ in following(waiting.pop()).values():
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return seen


@pytest.mark.parametrize("state", get_args(State))
def test_every_state_is_reached_from_every_other(state: State) -> None:
    assert reachable(state) == set(get_args(State))


@pytest.mark.parametrize("state", get_args(State))
def test_a_worker_can_end_in_every_state(state: State) -> None:
    ended, _ = following(state)["ended"]
    assert ended == "lost"


def test_whoever_held_blocks_is_fenced_first_and_then_recovered_from() -> None:
    both = [Fence("b"), Recover("b")]
    assert following("up")["ended"] == ("lost", both)
    assert following("suspected")["ended"] == following("suspected")["expired"] == ("lost", both)
    assert following("returning")["ended"] == ("lost", [Fence("b")]), "it held nothing yet"
    assert following("lost")["ended"] == ("lost", []), "the fence did that"


def test_late_words_of_a_lost_device_change_nothing() -> None:
    assert following("lost")["heard"] == ("lost", [])


def test_a_device_returns_once_all_others_can_reach_it() -> None:
    device = DeviceState("b")
    device.ended()
    assert not device.living
    assert device.started() == [Introduce("b")] and not device.living
    assert device.introduced() == [Offer("b")] and device.living


def test_an_event_that_cannot_happen_tells_the_story() -> None:
    device = DeviceState("b")
    device.silent()
    device.ended()
    with pytest.raises(RunFailed) as failed:
        device.introduced()
    assert str(failed.value) == (
        "device b: 'introduced' cannot happen while it is lost; so far: silent in up; ended in suspected; "
        "introduced in lost"
    )
