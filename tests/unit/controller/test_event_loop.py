"""Waits: what ends one that is too long, in a sentence, and that no loss is forgotten over another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_stars import three_devices

from testbed.clock import EmulatedClock
from testbed.controller.conditions import Conditions
from testbed.controller.device_state import DeviceState
from testbed.controller.event_loop import EventLoop
from testbed.controller.fleet import DeviceLost, FleetEvent
from testbed.controller.losses import DeviceGone
from testbed.controller.recorder import Recorder
from testbed.controller.run_state import RunState
from testbed.errors import RunFailed
from testbed.experiment.schema import Experiment
from testbed.runlog.folder import RunLog, read_rows
from testbed.traces import Change, Trace, TraceSet
from testbed.transport.messages import Collected, Committed, Connected, Hello, Loaded, OutOfBudget, Token


class Scripted:
    """A fleet whose workers say what they are told to, at once."""

    clock = EmulatedClock()
    replayed: frozenset[Any] = frozenset()
    beating, sample_interval_s = False, 60.0

    def __init__(self, *said: tuple[str, FleetEvent]) -> None:
        self.said = list(said)

    def events(self, timeout_s: float) -> list[tuple[str, FleetEvent]]:
        """All of it, once."""
        found, self.said = self.said, []
        return found

    def replay_reports(self) -> list[Any]:
        """Nothing."""
        return []

    def burst_bits(self, rate_bps: float) -> float:
        """Nothing."""
        return 0.0

    def kill(self, device: str) -> None:
        """Nothing."""

    def restart(self, device: str) -> None:
        """The new worker is up at once."""
        self.said.append((device, Hello(0, "")))

    def introduce(self, device: str) -> list[str]:
        """All get to know it at once."""
        self.said += [(device, Loaded(0)), *((name, Connected()) for name in "abc")]
        return ["a", "b", "c"]

    def send(self, device: str, command: Any) -> None:
        """Nothing."""


def loop_over(tmp_path: Path, fleet: Scripted, experiment: Experiment) -> EventLoop:
    conditions = Conditions(experiment)
    conditions.begin()
    log = RunLog.create(tmp_path, "scripted", "static")
    state = RunState({name: DeviceState(name) for name in "abc"}, begun=True)
    recorder = Recorder(log, fleet.clock, 1)
    return EventLoop(experiment, 2, fleet, conditions, state, recorder, log, 1e-4)  # type: ignore[arg-type]


def sentence(tmp_path: Path, *changes: Change) -> str:
    """What a wait of no time for a token of a's ends with."""
    traces = TraceSet((Trace(changes, "hold", None),)) if changes else TraceSet()
    experiment = three_devices().model_copy(update={"traces": traces})
    with pytest.raises(RunFailed) as failed:
        loop_over(tmp_path, Scripted(), experiment).answer(Token, "a", 0.0)
    return str(failed.value)


def test_a_device_that_says_nothing_is_named_with_the_token(tmp_path: Path) -> None:
    assert sentence(tmp_path) == "device a sent no Token for 0 s at token 0"


def test_links_that_are_down_and_devices_that_are_paused_are_named_as_what_holds_it_up(tmp_path: Path) -> None:
    paused = sentence(tmp_path, Change(0, "device/b", "pause", 1.0))
    assert paused.endswith("at token 0; device b is paused")
    pauses = [Change(0, f"device/{name}", "pause", 1.0) for name in "bc"]
    more = sentence(tmp_path, Change(0, "link/c", "up", 0.0), *pauses)
    assert more.endswith("; the link of c is at 0 bit/s; devices b, c are paused")


OUT = OutOfBudget(3, 2, 1)
ENDED = DeviceLost(False, -9)


@pytest.mark.parametrize("first", [("b", OUT), ("b", ENDED)])
@pytest.mark.parametrize("second", [("c", OUT), ("c", ENDED)])
def test_a_loss_that_is_told_together_with_another_is_kept_for_after_it(
    tmp_path: Path, first: tuple[str, FleetEvent], second: tuple[str, FleetEvent]
) -> None:
    """Also in the waits of a migration."""
    experiment = three_devices(recovery={"on_oom": "recompute"})
    loop = loop_over(tmp_path, Scripted(("a", Committed(1, 0)), first, second), experiment)
    lost = []
    for _ in range(2):
        with pytest.raises(DeviceGone) as gone:
            loop.migration_events(0.0)
        lost.append(gone.value.device)
    assert sorted(lost) == ["b", "c"] and not loop.migration_events(0.0)


def test_a_new_worker_is_not_thought_to_have_waited_for_a_core_before_it_was_there(tmp_path: Path) -> None:
    """Workers count their waits from their start on, so a new one has waited for less than the old one had."""
    loop = loop_over(tmp_path, fleet := Scripted(), three_devices(recovery={"on_exit": "recompute"}))

    def collected(tokens: int, waited_s: float) -> None:
        loop._state.tokens_done = tokens
        fleet.said.append(("b", Collected(1, [], 0, waited_s)))
        loop.listen()

    for tokens, waited_s in ((0, 0.5), (2, 3.0), (4, 3.5)):
        collected(tokens, waited_s)
    fleet.said.append(("b", ENDED))
    with pytest.raises(DeviceGone):
        loop.listen()
    loop.faults.strike("b", "restart")
    loop.offer_returned()
    assert not loop.faults.returning and not loop._state.lost
    for tokens, waited_s in ((6, 0.25), (8, 0.5)):
        collected(tokens, waited_s)
    loop._log.flush()
    waits = [(row["first"], row["last"], row["wait_s"]) for row in read_rows(loop._log.folder, "waits")]
    assert waits == [(0, 1, 2.5), (2, 3, 0.5), (6, 7, 0.25)]
